export { ABANDONED_AFTER_MS, removeOldEntries } from './abandoned-files.js';
export * from './buckets/index.js';
export { FileObjectStore, type FileObjectStoreOptions } from './file-object-store.js';
export { requireFreeSpace } from './free-space.js';
export { checkObjectKey } from './object-key.js';
export type { ByteRange, ByteSource, DirectTransfers, ObjectStat, ObjectStore } from './object-store.js';
export { bucketOfStore, type OpenObjectStoreOptions, openObjectStore } from './open-object-store.js';
