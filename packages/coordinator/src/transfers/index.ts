export type { ChunkReceiver } from './chunk-receiver.js';
export type { Download } from './device-downloads.js';
export { DIRECT_VALID_MS, type DirectAddress, DirectDownloads } from './direct-downloads.js';
export { BufferPool } from './file-pump.js';
export { PART_SIZE_BYTES } from './part-layout.js';
export { registerTransferRoutes, type TransferRoutesOptions } from './routes.js';
export type { IssuedTicket, Ticket } from './ticket-store.js';
export {
  createTransferService,
  type TicketProof,
  type TransferService,
  type TransferServiceOptions,
  type TransferSettings,
  type UploadState,
} from './transfer-service.js';
