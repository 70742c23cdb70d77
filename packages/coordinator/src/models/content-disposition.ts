/**
 * `attachment` with a suggested name: plain for every client, and beside it the true one where it is not ASCII
 * (RFC 6266, encoded as RFC 5987 says).
 */
export function contentDisposition(fileName: string): string {
  const plain = fileName.replaceAll(/[^A-Za-z0-9._-]/g, '_');
  const attachment = `attachment; filename="${plain}"`;
  if (plain === fileName) return attachment;
  // `encodeURIComponent` leaves these, which RFC 5987 does not have among its attribute characters.
  const encoded = encodeURIComponent(fileName).replaceAll(
    /['()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `${attachment}; filename*=UTF-8''${encoded}`;
}
