export { type CodeEntry, ERROR_CODES, type ErrorCode, GRPC, isErrorCode, type RetryClass } from './codes.js';
export { type ErrorBody, OctomilError, type OctomilErrorOptions, toOctomilError } from './octomil-error.js';
