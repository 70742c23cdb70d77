import { OctomilError } from '../errors/index.js';

const WORD = /^[A-Za-z0-9._-]+$/;
const MAX_KEY_BYTES = 512;
const MAX_WORD_BYTES = 200;

/**
 * Checks a key: words of `[A-Za-z0-9._-]` between single slashes, none of them `.` or `..`, 512 characters in all
 * and 200 a word (file systems allow 255).
 *
 * @throws OctomilError `invalid_input` naming the key
 */
export function checkObjectKey(key: string): void {
  const words = key.split('/');
  const valid =
    key.length <= MAX_KEY_BYTES &&
    words.every((word) => word.length <= MAX_WORD_BYTES && WORD.test(word) && !/^\.+$/.test(word));
  if (!valid) {
    throw new OctomilError(
      'invalid_input',
      `object key ${JSON.stringify(key.slice(0, 100))} is not valid; use words of A-Z, a-z, 0-9, ".", "_" and "-" between slashes`,
    );
  }
}
