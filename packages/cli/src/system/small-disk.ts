import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A disk of its own that a test can fill. */
export class SmallDisk {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** @returns undefined where this user may not mount */
  static mount(sizeMiB: number): SmallDisk | undefined {
    const folder = mkdtempSync(join(tmpdir(), 'octomil-disk-'));
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeMiB}m`, 'tmpfs', folder], { stdio: 'ignore' });
      mkdirSync(join(folder, 'used'));
      return new SmallDisk(folder);
    } catch {
      rmSync(folder, { recursive: true, force: true });
      return undefined;
    }
  }

  /** Takes all space but this much, in whole pages. */
  async fill(leftBytes = 0): Promise<void> {
    await this.free();
    const { bavail, bsize } = await statfs(this.folder);
    await writeFile(join(this.folder, 'filler'), new Uint8Array(Math.max(0, bavail * bsize - leftBytes)));
  }

  async free(): Promise<void> {
    await rm(join(this.folder, 'filler'), { force: true });
  }

  unmount(): void {
    execFileSync('umount', ['-l', this.folder], { stdio: 'ignore' });
    rmSync(this.folder, { recursive: true, force: true });
  }
}
