import { text } from 'node:stream/consumers';
import { OctomilError } from '@octomil/shared/errors';

/**
 * Asks for something that must not be seen. What is piped in is read as it is.
 *
 * @throws OctomilError `cancelled` on Ctrl-C
 */
export async function askSecret(question: string): Promise<string> {
  const { stdin, stderr } = process;
  if (!stdin.isTTY) return (await text(stdin)).trim();
  stderr.write(question);
  stdin.setRawMode(true);
  try {
    let typed = '';
    for await (const chunk of stdin) {
      for (const key of String(chunk)) {
        if (key === '\r' || key === '\n') return typed.trim();
        if (key === '\u0003' || key === '\u0004') throw new OctomilError('cancelled', 'no key was entered');
        typed = key === '\u007f' || key === '\b' ? typed.slice(0, -1) : typed + key;
      }
    }
    return typed.trim();
  } finally {
    stdin.setRawMode(false);
    stderr.write('\n');
  }
}
