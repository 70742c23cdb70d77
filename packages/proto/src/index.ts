export * from './gen/octomil/v1/agent_pb.js';
export { type MessageCodec, toServiceDefinition } from './service-definition.js';
export { connectService, implement, type ServiceClient, type ServiceHandlers } from './typed-service.js';
