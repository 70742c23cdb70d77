/** Notes which devices are forgotten while a row is read: it may be from before, and must not be kept after it. */
export class ReadsUnderWay {
  readonly #reads = new Set<Set<string>>();

  forget(deviceId: string): void {
    for (const forgotten of this.#reads) forgotten.add(deviceId);
  }

  /** What was read, and the devices that were forgotten meanwhile. */
  async during<T>(read: () => Promise<T>): Promise<{ readonly row: T; readonly forgotten: ReadonlySet<string> }> {
    const forgotten = new Set<string>();
    this.#reads.add(forgotten);
    try {
      return { row: await read(), forgotten };
    } finally {
      this.#reads.delete(forgotten);
    }
  }
}
