import { OctomilClientError } from './client-error.js';

/**
 * A path of names and ids, each encoded, so that a slash or a question mark in a name stays within its segment.
 *
 * @throws OctomilClientError `invalid_input` for a segment that no encoding keeps in its place: empty, `.` or `..`
 */
export function wirePath(...segments: readonly (string | number)[]): string {
  return segments.map((segment) => `/${pathSegment(String(segment))}`).join('');
}

function pathSegment(segment: string): string {
  // URLs drop these, encoded or not: the request would be for another thing (WHATWG URL, "double-dot path segment").
  if (segment === '' || segment === '.' || segment === '..') {
    throw new OctomilClientError('invalid_input', `"${segment}" cannot be a name or an id`);
  }
  if (!segment.isWellFormed()) {
    throw new OctomilClientError('invalid_input', 'a name holds half of a surrogate pair, which no URL can carry');
  }
  return encodeURIComponent(segment);
}
