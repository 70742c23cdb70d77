import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/**
 * Every metric of every process, in one place: name, meaning and labels. Labels are closed sets (routes, states, codes),
 * never ids, so that the number of series stays bounded.
 */
export const METRIC_NAMES = {
  httpRequestSeconds: {
    kind: 'histogram',
    name: 'octomil_http_request_seconds',
    help: 'Duration of REST requests.',
    labels: ['method', 'route', 'status'],
    buckets: [0.005, 0.02, 0.1, 0.5, 2, 10],
  },
  deviceSessions: {
    kind: 'gauge',
    name: 'octomil_device_sessions',
    help: 'Devices connected to this process.',
    labels: [],
  },
  unsettledRollouts: {
    kind: 'gauge',
    name: 'octomil_unsettled_rollouts',
    help: 'Rollouts that are active, paused or rolling back.',
    labels: [],
  },
  aggregationSeconds: {
    kind: 'histogram',
    name: 'octomil_aggregation_seconds',
    help: 'Duration of aggregating one round.',
    labels: ['strategy'],
    buckets: [0.05, 0.2, 1, 5, 20, 100],
  },
} as const;

export interface Metrics {
  observe(
    metric: 'httpRequestSeconds' | 'aggregationSeconds',
    labels: Readonly<Record<string, string>>,
    seconds: number,
  ): void;
  set(metric: 'deviceSessions' | 'unsettledRollouts', value: number): void;
  /** Prometheus text format 0.0.4. */
  render(): Promise<string>;
  readonly contentType: string;
}

/** A registry of its own per call, so that several systems in one process do not mix. */
export function createMetrics(options: { processMetrics: boolean }): Metrics {
  const registry = new Registry();
  if (options.processMetrics) collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const histogram = (key: 'httpRequestSeconds' | 'aggregationSeconds') => {
    const { name, help, labels, buckets } = METRIC_NAMES[key];
    return new Histogram({ name, help, labelNames: [...labels], buckets: [...buckets], registers });
  };
  const histograms: Record<string, Histogram<string>> = {
    httpRequestSeconds: histogram('httpRequestSeconds'),
    aggregationSeconds: histogram('aggregationSeconds'),
  };
  const gauge = (key: 'deviceSessions' | 'unsettledRollouts') => {
    const { name, help } = METRIC_NAMES[key];
    return new Gauge({ name, help, registers });
  };
  const gauges = { deviceSessions: gauge('deviceSessions'), unsettledRollouts: gauge('unsettledRollouts') };
  return {
    observe: (metric, labels, seconds) => histograms[metric]?.observe(labels, seconds),
    set: (metric, value) => gauges[metric].set(value),
    render: () => registry.metrics(),
    contentType: registry.contentType,
  };
}
