/**
 * Doing many small asynchronous things a few at a time: enough for libuv's threads, not all at once in
 * memory.
 */

/**
 * Runs `work` for every item, at most `limit` at a time, in order of start. After a failure nothing more is
 * started; the promise rejects with it once everything running has ended.
 */
export async function forEachAtOnce<T>(
  items: Iterable<T>,
  limit: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const iterator = items[Symbol.iterator]();
  const failures: unknown[] = [];
  const worker = async () => {
    while (failures.length === 0) {
      const { done, value } = iterator.next();
      if (done) return;
      try {
        await work(value);
      } catch (error) {
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: limit }, worker));
  if (failures.length > 0) throw failures[0];
}
