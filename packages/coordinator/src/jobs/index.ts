export type { JobQueue, Jobs, JobWorker } from './jobs.js';
export { type JobsOptions, openJobs } from './open-jobs.js';
