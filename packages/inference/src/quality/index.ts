export { EventReporter, type EventReporterOptions } from './event-reporter.js';
export { bucketEndMs, bucketOf, HISTOGRAM_BUCKETS, histogramPercentile } from './histogram.js';
export {
  eventMetrics,
  INFERENCE_EVENT_TYPES,
  type InferenceEvent,
  type InferenceEventMetrics,
  type InferenceEventType,
} from './inference-event.js';
export { type PostEventsOptions, postEvents } from './post-events.js';
export { StreamMeter, type StreamMetrics } from './stream-meter.js';
