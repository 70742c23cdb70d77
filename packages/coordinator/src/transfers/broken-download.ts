/**
 * Sends as `pump` does. Where that breaks off, its receiver sees a cut connection alone: `broke` is told why, unless the
 * receiver left.
 *
 * @throws what `pump` throws
 */
export async function tellingWhyBroken<Chunk extends unknown[]>(
  pump: (send: (...chunk: Chunk) => Promise<void>) => Promise<void>,
  send: (...chunk: Chunk) => Promise<void>,
  broke: (error: unknown) => void,
): Promise<void> {
  let receiverGone = false;
  try {
    await pump((...chunk) =>
      send(...chunk).catch((error: unknown) => {
        receiverGone = true;
        throw error;
      }),
    );
  } catch (error) {
    if (!receiverGone) broke(error);
    throw error;
  }
}
