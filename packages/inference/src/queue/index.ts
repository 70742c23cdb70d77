export { QueueFullError, QueueTimeoutError } from './queue-errors.js';
export { type QueueStats, RequestQueue, type RequestQueueOptions, type TurnContext } from './request-queue.js';
