import { randomUUID } from 'node:crypto';
import { mkdir, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { Aggregator } from '@octomil/coordinator';
import { layoutOf } from '@octomil/shared/tensors';

const REPEATS = 3;
const COPY_BYTES = 100_000_000;
const MEBIBYTE = 1024 * 1024;

/**
 * Times aggregations of `updates` weights files of `params` parameters from the page cache, finite check, checkpoint file
 * and its digest included, against the speed of a plain memory copy measured in between.
 *
 * `ratioToMemcpy` is bytes of updates folded a second over bytes copied a second, medians of both.
 */
export async function aggregateBench(options: {
  readonly params: number;
  readonly updates: number;
  readonly backend?: 'wasm' | 'js' | 'tfjs';
}): Promise<Record<string, unknown>> {
  const folder = join(tmpdir(), `octomil-bench-${randomUUID()}`);
  await mkdir(folder);
  const aggregator = new Aggregator();
  try {
    const paths = await writeUpdates(folder, options.params, options.updates);
    const [basePath = '', ...updatePaths] = paths;
    const rssBefore = process.memoryUsage().rss;
    const peak = watchPeakRss();
    const job = {
      basePath,
      updates: updatePaths.map((path, index) => ({ path, weight: 100 + index })),
      updateFormat: 'delta' as const,
      strategy: 'fedavg',
      round: 1,
      outputPath: join(folder, 'checkpoint.safetensors'),
      backend: options.backend ?? ('wasm' as const),
    };
    // The first one starts the worker and compiles: dropped.
    const { backend, checkpoint } = await aggregator.aggregate(job);
    const seconds: number[] = [];
    for (let repeat = 0; repeat < REPEATS; repeat++) seconds.push((await aggregator.aggregate(job)).seconds);
    const peakRss = peak();
    const copies = copySpeeds();
    const gigabytesPerSecond = (options.params * 4 * options.updates) / 1e9 / median(seconds);
    const memcpyGigabytesPerSecond = median(copies);
    return {
      benchmark: 'aggregate',
      params: options.params,
      updates: options.updates,
      backend,
      seconds: round(median(seconds)),
      gigabytesPerSecond: round(gigabytesPerSecond),
      memcpyGigabytesPerSecond: round(memcpyGigabytesPerSecond),
      ratioToMemcpy: round(gigabytesPerSecond / memcpyGigabytesPerSecond),
      peakRssMiB: Math.round(peakRss / MEBIBYTE),
      peakRssGrowthMiB: Math.round((peakRss - rssBefore) / MEBIBYTE),
      sha256: checkpoint.sha256,
    };
  } finally {
    await aggregator.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

/** The base and the updates, written piece by piece so that making them does not count as the memory of folding them. */
async function writeUpdates(folder: string, params: number, updates: number): Promise<string[]> {
  const layout = layoutOf([
    { name: 'bias', shape: [params % 1000] },
    { name: 'kernel', shape: [Math.floor(params / 1000), 1000] },
  ]);
  const piece = new Float32Array(MEBIBYTE);
  let seed = 1;
  for (let index = 0; index < piece.length; index++) {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) | 0;
    piece[index] = (seed / 2 ** 31) * 0.1;
  }
  const paths = Array.from({ length: updates + 1 }, (_, index) => join(folder, `${index}.safetensors`));
  for (const [index, path] of paths.entries()) {
    const file = await open(path, 'w');
    await file.write(layout.headerBytes);
    for (let written = 0; written < params; written += piece.length) {
      piece[0] = index;
      const part = piece.subarray(0, Math.min(piece.length, params - written));
      await file.write(new Uint8Array(part.buffer, 0, part.byteLength));
    }
    await file.close();
  }
  return paths;
}

/** Gigabytes a second of copying one large buffer into another. */
function copySpeeds(): number[] {
  const from = Buffer.alloc(COPY_BYTES, 1);
  const to = Buffer.alloc(COPY_BYTES, 2);
  return Array.from({ length: 9 }, () => {
    const started = performance.now();
    from.copy(to);
    return COPY_BYTES / 1e6 / (performance.now() - started);
  });
}

/** Looks at the resident set 50 times a second. The answer stops it and gives the greatest seen, in bytes. */
function watchPeakRss(): () => number {
  let peak = process.memoryUsage().rss;
  const timer = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage().rss);
  }, 20);
  return () => {
    clearInterval(timer);
    return Math.max(peak, process.memoryUsage().rss);
  };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

const round = (value: number): number => Number(value.toPrecision(4));
