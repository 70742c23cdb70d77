export {
  createGrpcServer,
  type GrpcServer,
  type GrpcServerOptions,
  type GrpcSettings,
  type GrpcTls,
} from './grpc-server.js';
