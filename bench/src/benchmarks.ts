import type { BenchmarkResult } from './result.js';

export interface Benchmark {
  readonly summary: string;
  /** Flags, with their defaults. */
  readonly options: Readonly<Record<string, number>>;
  needsPostgres(options: Readonly<Record<string, number>>): boolean;
  /** Servers that speak the clouds' protocols; default false. */
  readonly needsClouds?: boolean;
  run(options: Readonly<Record<string, number>>): Promise<BenchmarkResult>;
}

const option = (options: Readonly<Record<string, number>>, name: string): number => options[name] ?? Number.NaN;

export const BENCHMARKS: Readonly<Record<string, Benchmark>> = {
  aggregate: {
    summary: 'folds updates into a checkpoint, against the speed of a memory copy',
    options: { params: 25_000_000, updates: 32 },
    needsPostgres: () => false,
    run: async (options) => {
      const { aggregateBench } = await import('./aggregate.js');
      return (await aggregateBench({
        params: option(options, 'params'),
        updates: option(options, 'updates'),
      })) as BenchmarkResult;
    },
  },
  round: {
    summary: 'whole rounds with echo agents',
    options: { agents: 2, 'size-mb': 1, rounds: 30 },
    needsPostgres: () => true,
    run: async (options) => {
      const { roundBench } = await import('./round.js');
      return roundBench({
        agents: option(options, 'agents'),
        sizeMb: option(options, 'size-mb'),
        rounds: option(options, 'rounds'),
      });
    },
  },
  peers: {
    summary: 'the same rounds by Flower (scripts/install-peers.js), for their ratio',
    options: { agents: 2, 'size-mb': 1, rounds: 10 },
    needsPostgres: () => true,
    run: async (options) => {
      const { peersBench } = await import('./peers.js');
      return peersBench({
        agents: option(options, 'agents'),
        sizeMb: option(options, 'size-mb'),
        rounds: option(options, 'rounds'),
      });
    },
  },
  uploads: {
    summary: 'coordinator memory while many devices upload at once, against eight',
    options: { agents: 64, 'size-mb': 100 },
    needsPostgres: () => true,
    run: async (options) => {
      const { uploadsBench } = await import('./uploads.js');
      return uploadsBench({ agents: option(options, 'agents'), sizeMb: option(options, 'size-mb') });
    },
  },
  artifact: {
    summary: 'coordinator memory and speed while one large artifact goes up and down',
    options: { 'size-mib': 1024 },
    needsPostgres: () => true,
    run: async (options) => (await import('./artifact.js')).artifactBench({ sizeMib: option(options, 'size-mib') }),
  },
  rest: {
    summary: 'latency of REST under an open loop of requests, and how many reads a second there can be',
    options: { 'requests-per-second': 500, connections: 50, seconds: 30 },
    needsPostgres: () => true,
    run: async (options) =>
      (await import('./rest.js')).restBench({
        requestsPerSecond: option(options, 'requests-per-second'),
        connections: option(options, 'connections'),
        seconds: option(options, 'seconds'),
      }),
  },
  rollout: {
    summary: 'a version through 1, 10, 50 and 100 % of simulated devices, and bad canaries that are taken back',
    options: { devices: 10_000, connections: 100 },
    needsPostgres: () => true,
    run: async (options) =>
      (await import('./rollout.js')).rolloutBench({
        devices: option(options, 'devices'),
        connections: option(options, 'connections'),
      }),
  },
  devices: {
    summary: 'choosing devices and pages of them, with a million registered; writes docs/query-plans.md',
    options: { devices: 1_000_000, select: 1_000, repeats: 30 },
    needsPostgres: () => true,
    run: async (options) =>
      (await import('./million-devices.js')).millionDevicesBench({
        devices: option(options, 'devices'),
        select: option(options, 'select'),
        repeats: option(options, 'repeats'),
      }),
  },
  'idle-agent': {
    summary: 'memory of a connected agent without a trainer process',
    options: {},
    needsPostgres: () => false,
    run: async () => (await import('./idle-agent.js')).idleAgentBench(),
  },
  demo: {
    summary: 'the demo, from its start to its end',
    options: {},
    needsPostgres: () => false,
    run: async () => (await import('./demo.js')).demoBench(),
  },
  'heart-disease': {
    summary: 'AUC of federated, local and pooled training on four real hospitals',
    options: { seeds: 5 },
    needsPostgres: () => false,
    run: async (options) => (await import('./heart-disease.js')).heartDiseaseBench(option(options, 'seeds')),
  },
  chaos: {
    summary: 'training while coordinators (and agents) are killed',
    options: { kills: 50, 'over-selection': 1, coordinators: 1 },
    needsPostgres: (options) => option(options, 'coordinators') > 1,
    run: async (options) => {
      const { chaosBench } = await import('./chaos.js');
      return chaosBench({
        kills: option(options, 'kills'),
        overSelection: option(options, 'over-selection'),
        coordinators: option(options, 'coordinators'),
      });
    },
  },
  ranges: {
    summary:
      'three of thirty columns of a remote Parquet file beside the whole: requests and bytes on S3, GCS and Azure',
    options: { rows: 710_000 },
    needsPostgres: () => false,
    needsClouds: true,
    run: async (options) => (await import('./ranges.js')).rangesBench({ rows: option(options, 'rows') }),
  },
  reading: {
    summary: 'numbers from Parquet and CSV into one training tensor, beside other readers: processor time and memory',
    options: { rows: 1_000_000, columns: 30, runs: 3 },
    needsPostgres: () => false,
    run: async (options) =>
      (await import('./reading.js')).readingBench({
        rows: option(options, 'rows'),
        columns: option(options, 'columns'),
        runs: option(options, 'runs'),
      }),
  },
  streamed: {
    summary: 'training under a memory limit on a file that is larger, against one that fits: peak memory and time',
    options: { 'csv-mb': 2_048, 'limit-mib': 1_024, steps: 200, 'batch-size': 256 },
    needsPostgres: () => false,
    run: async (options) =>
      (await import('./streamed.js')).streamedBench({
        csvMb: option(options, 'csv-mb'),
        limitMib: option(options, 'limit-mib'),
        steps: option(options, 'steps'),
        batchSize: option(options, 'batch-size'),
      }),
  },
  cnn: {
    summary: 'training a network of convolutions on wasm, against tfjs in plain JavaScript',
    options: { images: 2_000, 'cpu-images': 128 },
    needsPostgres: () => false,
    run: async (options) =>
      (await import('./cnn.js')).cnnBench({
        images: option(options, 'images'),
        cpuImages: option(options, 'cpu-images'),
      }),
  },
  routing: {
    summary: 'which tier the router picks for labelled queries, and how fast',
    options: { runs: 5_000 },
    needsPostgres: () => false,
    run: async (options) => (await import('./routing.js')).routingBench(option(options, 'runs')),
  },
  gateway: {
    summary: 'what inference through the coordinator adds to a model server: time, processor, memory',
    options: { requests: 300, streams: 500, tokens: 200, 'tokens-per-second': 20 },
    needsPostgres: () => false,
    run: async (options) => {
      const { gatewayBench } = await import('./gateway.js');
      return gatewayBench({
        requests: option(options, 'requests'),
        streams: option(options, 'streams'),
        tokens: option(options, 'tokens'),
        tokensPerSecond: option(options, 'tokens-per-second'),
      });
    },
  },
  serve: {
    summary: 'a server of models: many requests against one, a full queue, JSON that a schema asks for',
    options: { parallel: 16, tokens: 128, answers: 500 },
    needsPostgres: () => false,
    run: async (options) => {
      const { serveBench } = await import('./serve.js');
      return serveBench({
        parallel: option(options, 'parallel'),
        tokens: option(options, 'tokens'),
        answers: option(options, 'answers'),
      });
    },
  },
};
