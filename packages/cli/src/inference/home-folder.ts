import { homedir } from 'node:os';
import { join } from 'node:path';

/** Where Octomil keeps what belongs to a person: `~/.octomil`. */
export function homeFolder(): string {
  return join(process.env['HOME'] || homedir(), '.octomil');
}
