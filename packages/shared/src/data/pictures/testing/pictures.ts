import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { PNG } from 'pngjs';

/** A PNG whose pixels have the colour that `colorOf` gives, from 0 to 255. */
export function pngOf(
  width: number,
  height: number,
  colorOf: (x: number, y: number) => readonly [number, number, number],
): Buffer {
  const png = new PNG({ width, height });
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) png.data.set([...colorOf(x, y), 255], (y * width + x) * 4);
  }
  return PNG.sync.write(png);
}

/** An even grey. */
export const greyPng = (level: number, side = 4): Buffer => pngOf(side, side, () => [level, level, level]);

/** Writes files by their names, folders included. */
export async function writeFiles(folder: string, files: Readonly<Record<string, string | Uint8Array>>): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
  }
}
