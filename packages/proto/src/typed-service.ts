import type { DescMethod, DescService, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import {
  type ChannelCredentials,
  type ClientDuplexStream,
  type ClientOptions,
  type ClientReadableStream,
  type ClientUnaryCall,
  type ClientWritableStream,
  type handleBidiStreamingCall,
  type handleClientStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type Metadata,
  makeClientConstructor,
  type ServiceError,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { type MessageCodec, toServiceDefinition } from './service-definition.js';

type Input<M extends DescMethod> = MessageShape<M['input']>;
type Output<M extends DescMethod> = MessageShape<M['output']>;
type Callback<M extends DescMethod> = (error: ServiceError | null, response?: Output<M>) => void;

type Handler<M extends DescMethod> = M['methodKind'] extends 'bidi_streaming'
  ? handleBidiStreamingCall<Input<M>, Output<M>>
  : M['methodKind'] extends 'server_streaming'
    ? handleServerStreamingCall<Input<M>, Output<M>>
    : M['methodKind'] extends 'client_streaming'
      ? handleClientStreamingCall<Input<M>, Output<M>>
      : handleUnaryCall<Input<M>, Output<M>>;

type Call<M extends DescMethod> = M['methodKind'] extends 'bidi_streaming'
  ? (metadata: Metadata) => ClientDuplexStream<Input<M>, Output<M>>
  : M['methodKind'] extends 'server_streaming'
    ? (request: MessageInitShape<M['input']>, metadata: Metadata) => ClientReadableStream<Output<M>>
    : M['methodKind'] extends 'client_streaming'
      ? (metadata: Metadata, callback: Callback<M>) => ClientWritableStream<Input<M>>
      : (
          request: MessageInitShape<M['input']>,
          metadata: Metadata,
          options: { deadline?: number },
          callback: Callback<M>,
        ) => ClientUnaryCall;

/** What a server must provide for `S`, each handler typed by its method's messages. */
export type ServiceHandlers<S extends DescService> = { [K in keyof S['method']]: Handler<S['method'][K]> };

export type ServiceClient<S extends DescService> = { [K in keyof S['method']]: Call<S['method'][K]> } & {
  close(): void;
};

/** The two arguments of `server.addService`. */
export function implement<S extends DescService>(
  service: S,
  handlers: ServiceHandlers<S>,
  codecs?: ReadonlyMap<string, MessageCodec>,
) {
  return [toServiceDefinition(service, codecs), handlers as unknown as UntypedServiceImplementation] as const;
}

/** Opens a client; the connection is made at the first call. */
export function connectService<S extends DescService>(
  service: S,
  address: string,
  credentials: ChannelCredentials,
  options: ClientOptions = {},
  codecs?: ReadonlyMap<string, MessageCodec>,
): ServiceClient<S> {
  const Client = makeClientConstructor(toServiceDefinition(service, codecs), service.typeName);
  return new Client(address, credentials, options) as unknown as ServiceClient<S>;
}
