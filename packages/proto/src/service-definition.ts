import {
  create,
  type DescMessage,
  type DescService,
  fromBinary,
  type Message,
  type MessageInitShape,
  toBinary,
} from '@bufbuild/protobuf';
import type { ServiceDefinition } from '@grpc/grpc-js';

/** How one message type travels. */
export interface MessageCodec {
  serialize(message: Message): Buffer;
  deserialize(bytes: Buffer): Message;
}

/** The grpc-js server calls `.copy()` on what a codec answers, which a plain Uint8Array lacks. */
function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function descriptorCodec(schema: DescMessage): MessageCodec {
  return {
    serialize: (message) =>
      asBuffer(
        toBinary(schema, '$typeName' in message ? message : create(schema, message as MessageInitShape<DescMessage>)),
      ),
    // Bytes fields of the answer are views of `bytes`: copy what is kept longer than the call.
    deserialize: (bytes) => fromBinary(schema, bytes, { readUnknownFields: false }),
  };
}

/**
 * Describes a protobuf-es service to grpc-js, for `server.addService` and `makeClientConstructor` alike.
 *
 * @param codecs replaces the general codec of a message type, by its full name; for messages that carry bulk bytes
 */
export function toServiceDefinition(
  service: DescService,
  codecs: ReadonlyMap<string, MessageCodec> = new Map(),
): ServiceDefinition {
  const codecOf = (schema: DescMessage): MessageCodec => codecs.get(schema.typeName) ?? descriptorCodec(schema);
  const definition: Record<string, ServiceDefinition[string]> = {};
  for (const method of service.methods) {
    const request = codecOf(method.input);
    const response = codecOf(method.output);
    definition[method.localName] = {
      path: `/${service.typeName}/${method.name}`,
      originalName: method.localName,
      requestStream: method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
      responseStream: method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
      requestSerialize: (message: Message) => request.serialize(message),
      requestDeserialize: (bytes: Buffer) => request.deserialize(bytes),
      responseSerialize: (message: Message) => response.serialize(message),
      responseDeserialize: (bytes: Buffer) => response.deserialize(bytes),
    };
  }
  return definition;
}
