import { OctomilError } from '@octomil/shared/errors';

/** Deeper than any body that means something: a topology has 64 levels of its own. */
const MAX_DEPTH = 100;

/**
 * Refuses what is JSON and yet cannot be kept: nesting that would overflow the stack of whoever walks it, and NUL
 * characters and halves of surrogate pairs, which PostgreSQL has no place for.
 *
 * @param what it is, for messages
 * @throws OctomilError `invalid_input`
 */
export function checkBodyShape(body: unknown, what = 'the body'): void {
  const open: { value: unknown; depth: number }[] = [{ value: body, depth: 1 }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { value, depth } = next;
    if (typeof value === 'string') refuseUnkept(value, what);
    else if (typeof value === 'object' && value !== null) {
      if (depth > MAX_DEPTH) {
        throw new OctomilError('invalid_input', `${what} nests deeper than ${MAX_DEPTH} levels; flatten it`);
      }
      for (const [key, inner] of Object.entries(value)) {
        refuseUnkept(key, what);
        open.push({ value: inner, depth: depth + 1 });
      }
    }
  }
}

/** @throws OctomilError `invalid_input` for an address with `%00` in it */
export function checkAddress(url: string): void {
  if (!/%00/.test(url)) return;
  throw new OctomilError('invalid_input', 'the address holds a NUL character (%00); leave it out');
}

function refuseUnkept(text: string, what: string): void {
  if (text.includes('\0')) {
    throw new OctomilError('invalid_input', `${what} holds a NUL character (\\u0000); leave it out`);
  }
  if (text.isWellFormed()) return;
  throw new OctomilError(
    'invalid_input',
    `${what} holds half a surrogate pair, such as \\ud800; send whole characters`,
  );
}
