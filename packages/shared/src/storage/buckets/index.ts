export {
  type BucketAddress,
  type BucketLocation,
  describeBucket,
  isAzureHost,
  parseBucketUrl,
} from './bucket-address.js';
export type {
  BucketClient,
  BucketObject,
  PartUpload,
  PresignedRequest,
  ReadOptions,
  ReceivedPart,
  SourceClient,
  UploadPart,
} from './bucket-client.js';
export { BucketObjectStore, type BucketObjectStoreOptions } from './bucket-object-store.js';
export { BucketErrors, type BucketProblem, networkProblem, problemOf, problemOfStatus } from './bucket-problem.js';
export { openBucket } from './open-bucket.js';
export { bypassesProxy, type Environment, noProxyEntries } from './proxies.js';
export { mayPass, resumingStream } from './resuming-stream.js';
export { openWebTransport, type WebTransport } from './web-transport.js';
