export { BULK_CODECS } from './bulk-codecs.js';
export {
  ERROR_BODY_KEY,
  ERROR_CODE_KEY,
  errorBodyOf,
  errorMetadata,
  type WireErrorBody,
} from './error-metadata.js';
export * from './gen/octomil/v1/agent_pb.js';
export { type MessageCodec, toServiceDefinition } from './service-definition.js';
export { connectService, implement, type ServiceClient, type ServiceHandlers } from './typed-service.js';
