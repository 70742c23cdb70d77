/** What `work` makes of each item, in their order, with no more than so many under way. */
export async function* inOrder<T, R>(
  items: Iterable<T>,
  atOnce: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const waiting: Promise<R>[] = [];
  for (const item of items) {
    const started = work(item);
    // Whoever waits for it hears of its failure; nobody does once another has failed.
    started.catch(() => undefined);
    waiting.push(started);
    if (waiting.length < atOnce) continue;
    const first = waiting.shift();
    if (first !== undefined) yield await first;
  }
  for (const left of waiting) yield await left;
}
