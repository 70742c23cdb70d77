export {
  QueueFullError,
  type QueueStats,
  QueueTimeoutError,
  RequestQueue,
  type RequestQueueOptions,
  type TurnContext,
} from '@octomil/inference/queue';
