import { OctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { Database } from '../database/database.js';
import type { SessionHub } from '../devices/index.js';
import type { Jobs } from '../jobs/index.js';
import type { DownloadPort } from '../rollouts/index.js';
import type { AssignmentPort, UpdateHeaderFields, Verdict } from '../training/assignment-port.js';
import { ChunkReceiver } from './chunk-receiver.js';
import { DeviceDownloads, type Download } from './device-downloads.js';
import type { DirectAddress, DirectDownloads } from './direct-downloads.js';
import { type DirectPart, DirectUploads } from './direct-uploads.js';
import { PART_SIZE_BYTES, partRange } from './part-layout.js';
import { receivePart } from './receive-part.js';
import { siblingParts } from './sibling-parts.js';
import type { StagedUpload } from './staged-upload.js';
import { StagedUploads } from './staged-uploads.js';
import { type IssuedTicket, type Ticket, TicketStore } from './ticket-store.js';
import { UpdateVerdicts } from './update-verdicts.js';

export interface TransferSettings {
  /** Folder for unfinished uploads; processes may share it. */
  readonly stagingRoot: string;
  /** 5 to 16 MiB; default 8 MiB. */
  readonly partSizeBytes?: number;
  /** How long a ticket lives without being asked for again. Default 1 h. */
  readonly ticketLifetimeMs?: number;
  /** Largest update that gets a ticket. Default 4 GiB. */
  readonly maxUpdateBytes?: number;
  /** A part whose bytes stop for this long is cut off. Default 60 s. */
  readonly partIdleMs?: number;
  /** Of who checks an update that arrived in the bucket. Default 30 s. */
  readonly checkLeaseMs?: number;
}

export interface TransferServiceOptions {
  readonly database: Database;
  readonly objects: ObjectStore;
  /** Default: downloads come from here. */
  readonly downloads?: DirectDownloads;
  readonly assignments: AssignmentPort;
  /** Which files of versions a device may have. */
  readonly rollouts: DownloadPort;
  /** The sessions held here: they are told while an update of theirs is being taken. */
  readonly hub: SessionHub;
  /** Default: updates that arrived in the bucket are looked for, without wake-ups. */
  readonly jobs?: Jobs;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly settings: TransferSettings;
}

/** An upload as its sender sees it. Parts are counted from 0. */
export interface UploadState {
  readonly ticket: Ticket;
  readonly receivedParts: readonly number[];
}

/** Proof that the caller may use a ticket; `deviceId` where the connection has proved one. */
export interface TicketProof {
  readonly ticketId: string;
  readonly token: string;
  readonly deviceId?: string;
}

/** Bulk bytes of devices: uploads by ticket and parts, downloads of what an assignment names. */
export interface TransferService {
  start(): Promise<void>;
  stop(): Promise<void>;
  /**
   * A ticket with the parts that have arrived, or the verdict where these bytes were completed before.
   *
   * @throws what `AssignmentPort.checkHeader` throws; `too_large`, `insufficient_storage`
   */
  issueTicket(
    deviceId: string,
    header: UpdateHeaderFields,
  ): Promise<
    { ticket: IssuedTicket; receivedParts: number[]; directParts: readonly DirectPart[] } | { verdict: Verdict }
  >;
  /** @throws `ticket_invalid`, `ticket_expired` */
  state(proof: TicketProof): Promise<UploadState>;
  /** @throws `ticket_invalid`, `ticket_expired`, `too_large`, `transfer_incomplete`, `insufficient_storage` */
  putPart(
    proof: TicketProof,
    index: number,
    body: AsyncIterable<Uint8Array>,
    contentLength: number | undefined,
  ): Promise<UploadState>;
  /** For a stream of chunks by offset. @throws `ticket_invalid`, `ticket_expired` */
  receiveChunks(proof: TicketProof): Promise<ChunkReceiver>;
  /** Verifies size and digest and hands the file over. Repeating it answers the same verdict. @throws `checksum_mismatch`, `transfer_incomplete` */
  complete(proof: TicketProof): Promise<Verdict>;
  /**
   * As `complete`, but bytes that went to the bucket are checked by a job: after `waitMs` it answers undefined while that
   * goes on. Ask again.
   */
  completeSoon(proof: TicketProof, waitMs: number): Promise<Verdict | undefined>;
  /** @throws `not_found` unless an assignment of this device names the digest */
  openDownload(deviceId: string, sha256: string): Promise<Download>;
  /** A request that fetches the same bytes from the bucket; undefined where they come from here. @throws as `openDownload` */
  downloadAddress(deviceId: string, sha256: string): Promise<DirectAddress | undefined>;
}

const SWEEP_MS = 60_000;
const PROGRESS_EVERY_MS = 1000;
/** For who does not ask again. */
const VERDICT_WAIT_MS = 240_000;

export function createTransferService(options: TransferServiceOptions): TransferService {
  const { database, objects, jobs, assignments, rollouts, hub, clock, logger, settings } = options;
  const partSizeBytes = settings.partSizeBytes ?? PART_SIZE_BYTES.usual;
  if (partSizeBytes < PART_SIZE_BYTES.smallest || partSizeBytes > PART_SIZE_BYTES.largest) {
    throw new OctomilError(
      'config_invalid',
      `a part size of ${partSizeBytes} bytes is outside ${PART_SIZE_BYTES.smallest} to ${PART_SIZE_BYTES.largest}`,
    );
  }
  const maxUpdateBytes = settings.maxUpdateBytes ?? 4 * 1024 ** 3;
  const tickets = new TicketStore(database, partSizeBytes, settings.ticketLifetimeMs ?? 3_600_000);
  const staged = new StagedUploads(settings.stagingRoot, clock);
  const direct = new DirectUploads({ objects, rows: tickets, clock, logger });
  const { checkLeaseMs } = settings;
  const verdicts = new UpdateVerdicts({
    ...{ tickets, staged, direct, assignments, hub, jobs, checkLeaseMs, clock, logger },
  });
  const downloads = new DeviceDownloads({ objects, direct: options.downloads, assignments, rollouts, logger });
  const progressedAtMs = new WeakMap<StagedUpload, number>();
  let cancelSweep = (): void => undefined;

  const ticketOf = ({ ticketId, token, deviceId }: TicketProof): Promise<Ticket> =>
    tickets.find(ticketId, token, deviceId);

  /** Bytes that arrive keep the assignment alive, whatever the session's stream does meanwhile. */
  const progressed = (ticket: Ticket, upload: StagedUpload): void => {
    const now = clock.now();
    if (now - (progressedAtMs.get(upload) ?? Number.NEGATIVE_INFINITY) < PROGRESS_EVERY_MS) return;
    progressedAtMs.set(upload, now);
    assignments
      .progress(ticket.deviceId, ticket.header.key, {
        phase: 'upload',
        completed: upload.receivedBytes,
        total: ticket.layout.sizeBytes,
      })
      .catch((error: unknown) => logger.debug({ error, ticketId: ticket.id }, 'upload progress was not recorded'));
  };

  const sweep = async (): Promise<void> => {
    await staged.sweep(
      (ticketIds) => tickets.stillOpen(ticketIds),
      (ticketId) => verdicts.isRunning(ticketId),
    );
    await direct.clean();
  };
  const scheduleSweep = (): void => {
    cancelSweep = clock.after(SWEEP_MS, () => {
      sweep()
        .catch((error: unknown) => logger.warn({ error }, 'could not sweep the staging folder; trying again'))
        .finally(() => {
          if (staged.isOpen) scheduleSweep();
        });
    });
  };

  return {
    start: async () => {
      if (staged.isOpen) return;
      await staged.open();
      await sweep();
      scheduleSweep();
      await verdicts.start();
    },
    stop: async () => {
      cancelSweep();
      await verdicts.stop();
      await staged.close();
    },
    issueTicket: async (deviceId, header) => {
      const verdict = (await tickets.verdictOn(deviceId, header)) ?? (await assignments.verdictOn(deviceId, header));
      if (verdict !== undefined) return { verdict };
      await assignments.checkHeader(deviceId, header);
      if (header.sizeBytes > maxUpdateBytes) {
        throw new OctomilError(
          'too_large',
          `an update of ${header.sizeBytes} bytes is larger than the ${maxUpdateBytes} this coordinator takes`,
          { details: { sizeBytes: header.sizeBytes, limitBytes: maxUpdateBytes } },
        );
      }
      const { ticket, abandoned } = await tickets.issue(deviceId, header);
      for (const ticketId of abandoned) await staged.forget(ticketId);
      // All of it is in the bucket: what is left is to ask for the verdict.
      if (ticket.state === 'arrived') return { ticket, receivedParts: allParts(ticket), directParts: [] };
      const upload = await staged.of(ticket);
      await staged.requireDisk(ticket.layout.sizeBytes - upload.receivedBytes);
      const elsewhere = await siblingParts(upload, ticket.id, await staged.siblings());
      const receivedParts = [...upload.received, ...elsewhere.keys()].sort((a, b) => a - b);
      // What began here goes on here.
      if (receivedParts.length > 0) return { ticket, receivedParts, directParts: [] };
      const { parts, arrived } = await direct.requests(ticket);
      return { ticket, receivedParts: arrived ? allParts(ticket) : [], directParts: parts };
    },
    state: async (proof) => {
      const ticket = await ticketOf(proof);
      if (ticket.state !== 'open') return { ticket, receivedParts: allParts(ticket) };
      return { ticket, receivedParts: (await staged.of(ticket)).received };
    },
    putPart: async (proof, index, body, contentLength) => {
      const ticket = await ticketOf(proof);
      if (ticket.state !== 'open') return { ticket, receivedParts: allParts(ticket) };
      const { start, end } = partRange(ticket.layout, index);
      const upload = await staged.of(ticket);
      await receivePart({
        upload,
        index,
        sizeBytes: end - start,
        body,
        contentLength,
        clock,
        idleMs: settings.partIdleMs ?? 60_000,
        onBytes: () => progressed(ticket, upload),
      });
      return { ticket, receivedParts: upload.received };
    },
    receiveChunks: async (proof) => {
      const ticket = await ticketOf(proof);
      if (ticket.verdict !== undefined) {
        throw new OctomilError('wrong_state', `upload ${ticket.id} is complete; nothing more is needed`);
      }
      const upload = await staged.of(ticket);
      return new ChunkReceiver(upload, () => progressed(ticket, upload));
    },
    complete: async (proof) => {
      const verdict = await verdicts.of(await ticketOf(proof), VERDICT_WAIT_MS);
      if (verdict !== undefined) return verdict;
      throw new OctomilError('request_timeout', 'the update is still being checked; complete it again for the verdict');
    },
    completeSoon: async (proof, waitMs) => verdicts.of(await ticketOf(proof), waitMs),
    openDownload: (deviceId, sha256) => downloads.open(deviceId, sha256),
    downloadAddress: (deviceId, sha256) => downloads.address(deviceId, sha256),
  };
}

function allParts(ticket: Ticket): number[] {
  return Array.from({ length: ticket.layout.partCount }, (_, index) => index);
}
