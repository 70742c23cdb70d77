import { randomUUID } from 'node:crypto';
import { access, statfs } from 'node:fs/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { Database } from '../database/database.js';
import type { SessionHub } from '../devices/index.js';
import type { Jobs } from '../jobs/index.js';
import type { DownloadPort } from '../rollouts/index.js';
import type { AssignmentPort, UpdateHeaderFields, Verdict } from '../training/assignment-port.js';
import { ArrivedUploads } from './arrived-uploads.js';
import { ChunkReceiver } from './chunk-receiver.js';
import type { DirectAddress, DirectDownloads } from './direct-downloads.js';
import { type DirectPart, DirectUploads } from './direct-uploads.js';
import { type BufferPool, pumpFile } from './file-pump.js';
import { PART_SIZE_BYTES, partRange } from './part-layout.js';
import { receivePart } from './receive-part.js';
import { gatherParts, siblingParts } from './sibling-parts.js';
import { pumpBytes, SMALL_FILE_BYTES, SmallFiles } from './small-files.js';
import { StagedUpload } from './staged-upload.js';
import { StagingFolder } from './staging-folder.js';
import { type ClaimedTicket, type IssuedTicket, type Ticket, TicketStore } from './ticket-store.js';

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

export interface Download {
  readonly sizeBytes: number;
  /** Sends a range of the object. `send` resolves when the chunk's memory may be used again. */
  pump(
    range: { start: number; end: number },
    pool: BufferPool,
    send: (chunk: Buffer, offset: number) => Promise<void>,
  ): Promise<void>;
  /** Call once, also after a failure. */
  release(): Promise<void>;
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
/** Longer than a part may take between two signs of life, so that nobody still writes through what is forgotten. */
const FORGET_AFTER_MS = 900_000;
const PROGRESS_EVERY_MS = 1000;
/** For who does not ask again. */
const VERDICT_WAIT_MS = 240_000;
const LOOK_AGAIN_MS = 250;
/** Left free on the staging disk for everything else. */
const DISK_RESERVE_BYTES = 64 * 1024 * 1024;

export function createTransferService(options: TransferServiceOptions): TransferService {
  const { database, objects, assignments, rollouts, hub, clock, logger, settings } = options;
  const partSizeBytes = settings.partSizeBytes ?? PART_SIZE_BYTES.usual;
  if (partSizeBytes < PART_SIZE_BYTES.smallest || partSizeBytes > PART_SIZE_BYTES.largest) {
    throw new OctomilError(
      'config_invalid',
      `a part size of ${partSizeBytes} bytes is outside ${PART_SIZE_BYTES.smallest} to ${PART_SIZE_BYTES.largest}`,
    );
  }
  const maxUpdateBytes = settings.maxUpdateBytes ?? 4 * 1024 ** 3;
  const tickets = new TicketStore(database, partSizeBytes, settings.ticketLifetimeMs ?? 3_600_000);
  const direct = new DirectUploads({ objects, rows: tickets, clock, logger });
  const uploads = new Map<string, { staged: Promise<StagedUpload>; usedAtMs: number }>();
  const completing = new Map<string, Promise<Verdict>>();
  const ownerId = randomUUID();
  const arrived = new ArrivedUploads<ClaimedTicket>({
    queue: 'arrived-updates',
    rows: tickets,
    jobs: options.jobs,
    ownerId,
    leaseMs: settings.checkLeaseMs,
    clock,
    logger,
    validate: (ticket) => submit(ticket),
    renewed: (ticket) => {
      const { sizeBytes } = ticket.layout;
      assignments
        .progress(ticket.deviceId, ticket.header.key, { phase: 'validate', completed: sizeBytes, total: sizeBytes })
        .catch((error: unknown) => logger.debug({ error, ticketId: ticket.id }, 'progress was not recorded'));
    },
    refused: async (ticket, error, why) => {
      if (why === 'final') {
        await tickets.abandon(ticket.id, error);
        await direct.drop(ticket.id);
      } else {
        // Its sender may send it again, to the coordinator.
        await direct.drop(ticket.id);
        await tickets.reopen(ticket.id, ownerId, error);
      }
    },
  });
  const smallFiles = new SmallFiles();
  const lastProgressMs = new Map<string, number>();
  let staging: StagingFolder | undefined;
  let cancelSweep = (): void => undefined;

  const folder = (): StagingFolder => {
    if (staging === undefined) throw new OctomilError('internal', 'the transfer service is not started');
    return staging;
  };

  const stagedUpload = (ticket: Ticket): Promise<StagedUpload> => {
    let upload = uploads.get(ticket.id);
    if (upload === undefined) {
      upload = { staged: StagedUpload.load(folder().path, ticket.id, ticket.layout), usedAtMs: 0 };
      uploads.set(ticket.id, upload);
    }
    upload.usedAtMs = clock.now();
    return upload.staged;
  };

  const forget = async (ticketId: string): Promise<void> => {
    const upload = uploads.get(ticketId);
    uploads.delete(ticketId);
    lastProgressMs.delete(ticketId);
    await (await upload?.staged)?.remove();
    await staging?.remove(ticketId);
  };

  /** Bytes that arrive keep the assignment alive, whatever the session's stream does meanwhile. */
  const progressed = (ticket: Ticket, upload: StagedUpload): void => {
    const now = clock.now();
    if (now - (lastProgressMs.get(ticket.id) ?? Number.NEGATIVE_INFINITY) < PROGRESS_EVERY_MS) return;
    lastProgressMs.set(ticket.id, now);
    assignments
      .progress(ticket.deviceId, ticket.header.key, {
        phase: 'upload',
        completed: upload.receivedBytes,
        total: ticket.layout.sizeBytes,
      })
      .catch((error: unknown) => logger.debug({ error, ticketId: ticket.id }, 'upload progress was not recorded'));
  };

  const checkDisk = async (neededBytes: number): Promise<void> => {
    const disk = await statfs(folder().path);
    const freeBytes = disk.bavail * disk.bsize - DISK_RESERVE_BYTES;
    if (freeBytes >= neededBytes) return;
    throw new OctomilError(
      'insufficient_storage',
      `the coordinator has ${Math.max(0, freeBytes)} bytes free for uploads and this one needs ${neededBytes}; free space there, then try again`,
      { details: { freeBytes: Math.max(0, freeBytes), neededBytes }, retryAfterSeconds: 60 },
    );
  };

  const sweep = async (): Promise<void> => {
    const staged = await folder().ticketIds();
    const open = await tickets.stillOpen(staged);
    for (const ticketId of staged) {
      if (!open.has(ticketId) && !completing.has(ticketId)) await forget(ticketId);
    }
    await direct.clean();
    // What is known of uploads that rest is read again when they go on.
    for (const [ticketId, { staged: upload, usedAtMs }] of uploads) {
      if (clock.now() - usedAtMs > FORGET_AFTER_MS && (await upload).idle) uploads.delete(ticketId);
    }
  };
  const scheduleSweep = (): void => {
    cancelSweep = clock.after(SWEEP_MS, () => {
      sweep()
        .catch((error: unknown) => logger.warn({ error }, 'could not sweep the staging folder; trying again'))
        .finally(() => {
          if (staging !== undefined) scheduleSweep();
        });
    });
  };

  /** A base of training, or a file of a version that a rollout tells or told the device to run. */
  const allowedObject = async (
    deviceId: string,
    sha256: string,
  ): Promise<{ readonly objectKey: string; readonly sizeBytes: number }> => {
    const desired = await rollouts.desiredObject(deviceId, sha256);
    if (desired !== undefined) return desired;
    try {
      return await assignments.baseObject(deviceId, sha256);
    } catch (error) {
      const told = toOctomilError(error).code === 'not_found' ? await rollouts.toldObject(deviceId, sha256) : undefined;
      if (told === undefined) throw error;
      return told;
    }
  };

  /** Notes what the object store has lost. */
  const reported = async <T>(objectKey: string, deviceId: string, look: () => Promise<T>): Promise<T> => {
    try {
      return await look();
    } catch (error) {
      if (toOctomilError(error).code === 'not_found') {
        logger.error({ objectKey, deviceId }, 'a file that a device may have is gone from the object store');
        await rollouts.objectMissing(objectKey);
      }
      throw error;
    }
  };

  /** The receiver of a download that breaks off sees a cut connection alone: why is for the log to say. */
  const logged = (download: Download, objectKey: string, deviceId: string): Download => ({
    ...download,
    pump: async (range, pool, send) => {
      let receiverGone = false;
      const sending = (chunk: Buffer, offset: number): Promise<void> =>
        send(chunk, offset).catch((error: unknown) => {
          receiverGone = true;
          throw error;
        });
      try {
        await download.pump(range, pool, sending);
      } catch (error) {
        if (!receiverGone) {
          logger.error({ error, objectKey, deviceId }, 'a file that a device may have could not be sent');
        }
        throw error;
      }
    },
  });

  const submit = async (ticket: Ticket): Promise<Verdict> => {
    // A coordinator that was killed after the update counted left the ticket open.
    const earlier = await assignments.verdictOn(ticket.deviceId, ticket.header);
    if (earlier !== undefined) {
      await tickets.complete(ticket, earlier);
      await forget(ticket.id);
      return earlier;
    }
    const upload = await stagedUpload(ticket);
    await gatherParts(upload, ticket.id, await folder().siblings());
    await direct.fetch(ticket, upload);
    const sealed = await upload.seal();
    if (sealed.sha256 !== ticket.header.sha256) {
      await upload.reset();
      await direct.drop(ticket.id);
      throw new OctomilError(
        'checksum_mismatch',
        `the ${ticket.layout.sizeBytes} bytes that arrived have SHA-256 ${sealed.sha256}, not ${ticket.header.sha256} as announced; all parts were dropped: send them again, or ask for a ticket with the right digest`,
        { details: { expected: ticket.header.sha256, received: sealed.sha256 } },
      );
    }
    const { key } = ticket.header;
    let verdict: Verdict;
    hub.get(ticket.deviceId)?.submitting(key, true);
    try {
      verdict = await assignments.submitUpdate(ticket.deviceId, ticket.header, sealed);
    } catch (thrown) {
      const error = toOctomilError(thrown);
      if (error.entry.retry === 'never') {
        await tickets.abandon(ticket.id, error);
        await forget(ticket.id);
      } else if (await exists(sealed.path)) {
        upload.unseal();
      } else {
        await upload.reset();
      }
      throw thrown;
    } finally {
      hub.get(ticket.deviceId)?.submitting(key, false);
    }
    hub.get(ticket.deviceId)?.settled(key);
    await tickets.complete(ticket, verdict);
    await forget(ticket.id);
    await direct.drop(ticket.id).catch((error: unknown) => {
      logger.warn({ error, ticketId: ticket.id }, 'could not remove an update from the bucket; trying again later');
    });
    return verdict;
  };

  /** The verdict, once there is one within this time; undefined while the update is still being looked at. */
  const verdictOn = async (ticketId: string, waitMs: number): Promise<Verdict | undefined> => {
    const untilMs = clock.now() + waitMs;
    for (;;) {
      const { state, verdict, problem } = await tickets.outcome(ticketId);
      if (verdict !== undefined) return verdict;
      if (state !== 'arrived') throw problem;
      const leftMs = untilMs - clock.now();
      if (leftMs <= 0) return undefined;
      const pause = clock.sleep(Math.min(LOOK_AGAIN_MS, leftMs));
      await Promise.race([pause, arrived.checking(ticketId) ?? pause]);
    }
  };

  const complete = async (proof: TicketProof, waitMs: number): Promise<Verdict | undefined> => {
    const ticket = await tickets.find(proof.ticketId, proof.token, proof.deviceId);
    if (ticket.verdict !== undefined) return ticket.verdict;
    if (ticket.state === 'arrived') return verdictOn(ticket.id, waitMs);
    const staged = await stagedUpload(ticket);
    if (
      !completing.has(ticket.id) &&
      staged.received.length < ticket.layout.partCount &&
      (await direct.arrived(ticket))
    ) {
      await tickets.arrive(ticket.id);
      await arrived.add(ticket.id);
      return verdictOn(ticket.id, waitMs);
    }
    if (ticket.problem !== undefined && staged.received.length === 0) throw ticket.problem;
    let running = completing.get(ticket.id);
    if (running === undefined) {
      running = submit(ticket).finally(() => completing.delete(ticket.id));
      completing.set(ticket.id, running);
    }
    return running;
  };

  return {
    start: async () => {
      if (staging !== undefined) return;
      staging = await StagingFolder.take(settings.stagingRoot, clock);
      await sweep();
      scheduleSweep();
      await arrived.start();
    },
    stop: async () => {
      cancelSweep();
      await arrived.stop();
      const held = staging;
      staging = undefined;
      await held?.release();
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
      for (const ticketId of abandoned) await forget(ticketId);
      // All of it is in the bucket: what is left is to ask for the verdict.
      if (ticket.state === 'arrived') return { ticket, receivedParts: allParts(ticket), directParts: [] };
      const upload = await stagedUpload(ticket);
      await checkDisk(ticket.layout.sizeBytes - upload.receivedBytes);
      const elsewhere = await siblingParts(upload, ticket.id, await folder().siblings());
      const receivedParts = [...upload.received, ...elsewhere.keys()].sort((a, b) => a - b);
      // What began here goes on here.
      if (receivedParts.length > 0) return { ticket, receivedParts, directParts: [] };
      const { parts, arrived } = await direct.requests(ticket);
      return { ticket, receivedParts: arrived ? allParts(ticket) : [], directParts: parts };
    },
    state: async (proof) => {
      const ticket = await tickets.find(proof.ticketId, proof.token, proof.deviceId);
      if (ticket.state !== 'open') return { ticket, receivedParts: allParts(ticket) };
      return { ticket, receivedParts: (await stagedUpload(ticket)).received };
    },
    putPart: async (proof, index, body, contentLength) => {
      const ticket = await tickets.find(proof.ticketId, proof.token, proof.deviceId);
      if (ticket.state !== 'open') return { ticket, receivedParts: allParts(ticket) };
      const { start, end } = partRange(ticket.layout, index);
      const upload = await stagedUpload(ticket);
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
      const ticket = await tickets.find(proof.ticketId, proof.token, proof.deviceId);
      if (ticket.verdict !== undefined) {
        throw new OctomilError('wrong_state', `upload ${ticket.id} is complete; nothing more is needed`);
      }
      const upload = await stagedUpload(ticket);
      return new ChunkReceiver(upload, () => progressed(ticket, upload));
    },
    complete: async (proof) => {
      const verdict = await complete(proof, VERDICT_WAIT_MS);
      if (verdict !== undefined) return verdict;
      throw new OctomilError('request_timeout', 'the update is still being checked; complete it again for the verdict');
    },
    completeSoon: complete,
    openDownload: async (deviceId, sha256) => {
      const { objectKey, sizeBytes } = await allowedObject(deviceId, sha256);
      if (objects.direct !== undefined)
        return logged(
          await reported(objectKey, deviceId, () => openInBucket(objects, objectKey, sizeBytes)),
          objectKey,
          deviceId,
        );
      const local = await reported(objectKey, deviceId, () => objects.localFile(objectKey));
      const small = sizeBytes <= SMALL_FILE_BYTES;
      const download: Download = {
        sizeBytes,
        pump: async (range, pool, send) =>
          small
            ? pumpBytes(await smallFiles.read(local.path, sizeBytes), range, pool, send)
            : pumpFile(local.path, range, pool, send),
        release: () => local.release(),
      };
      return logged(download, objectKey, deviceId);
    },
    downloadAddress: async (deviceId, sha256) => {
      const { objectKey, sizeBytes } = await allowedObject(deviceId, sha256);
      if (options.downloads?.offered !== true) return undefined;
      await reported(objectKey, deviceId, () => requireObject(objects, objectKey, sizeBytes));
      return options.downloads.address(objectKey);
    },
  };
}

/** @throws `not_found` where the store has no such object, or another in its place */
async function requireObject(objects: ObjectStore, objectKey: string, sizeBytes: number): Promise<void> {
  const found = await objects.stat(objectKey);
  if (found?.sizeBytes !== sizeBytes) throw new OctomilError('not_found', `there is no whole object ${objectKey}`);
}

/** A range is read from the bucket as it is asked for: a copy of the whole would be made for each resume. */
async function openInBucket(objects: ObjectStore, objectKey: string, sizeBytes: number): Promise<Download> {
  await requireObject(objects, objectKey, sizeBytes);
  return {
    sizeBytes,
    pump: async (range, _pool, send) => {
      let offset = range.start;
      for await (const chunk of objects.read(objectKey, range)) {
        await send(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength), offset);
        offset += chunk.length;
      }
    },
    release: async () => undefined,
  };
}

function allParts(ticket: Ticket): number[] {
  return Array.from({ length: ticket.layout.partCount }, (_, index) => index);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
