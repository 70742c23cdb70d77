import { readFile } from 'node:fs/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { PersonalReport } from '@octomil/shared/training';
import type { UploadVerdict } from '../connection/http-transfers.js';
import type { AssignmentKey, Outcome, PendingUpload, WorkContext } from '../state/journal.js';
import type { Line } from './assignments.js';
import type { ProgressThrottle } from './progress.js';
import type { SiteRunnerOptions } from './site-runner.js';
import { uploadParts } from './upload.js';
import type { Work } from './work.js';

/** After this many tickets that could not be used an upload has failed. */
const MAX_TICKETS = 5;

export type DeliveryOptions = Pick<
  SiteRunnerOptions,
  'journal' | 'uploader' | 'audit' | 'clock' | 'logger' | 'onUploaded'
>;

/** Sends an update, within the message or in parts, with its audit entry before the first byte, until it has a verdict. */
export class UpdateDelivery {
  readonly #options: DeliveryOptions;

  constructor(options: DeliveryOptions) {
    this.#options = options;
  }

  async deliver(
    upload: PendingUpload,
    work: Work,
    line: Line,
    resumed: boolean,
    throttle?: ProgressThrottle,
  ): Promise<Outcome> {
    const { journal, audit, logger, onUploaded } = this.#options;
    const { sizeBytes, sha256, sampleCount } = upload;
    const { welcome } = await line.link(work.signal);
    const inline = sizeBytes <= Number(welcome.inlineUpdateMaxBytes);
    const [bytes] = await Promise.all([
      inline ? readFile(upload.path) : undefined,
      resumed ? undefined : journal.put(upload),
      audit.record({
        ...auditOf(upload.key, upload.context),
        kind: 'update',
        sizeBytes,
        sha256,
        sampleCount,
        details: {
          format: upload.format,
          metrics: JSON.parse(upload.metricsJson) as unknown,
          ...stayedHere(upload.metricsJson),
          ...(resumed ? { resumed } : {}),
        },
      }),
    ]);
    work.signal.throwIfAborted();
    const header = {
      assignment: { ...upload.key },
      format: upload.format,
      sizeBytes: BigInt(sizeBytes),
      sha256,
      sampleCount: BigInt(sampleCount),
      metricsJson: upload.metricsJson,
    };
    let verdict: UploadVerdict;
    if (bytes !== undefined) {
      await this.#options.uploader.bandwidth?.take(bytes.length, work.signal);
      line.ask(work, { case: 'inlineUpdate', value: { header, data: bytes } });
      verdict = await work.verdict;
    } else verdict = await this.#byTicket(upload, { case: 'ticketRequest', value: { header } }, work, line, throttle);
    onUploaded?.(sizeBytes);
    if (verdict.accepted) {
      logger.info({ ...upload.key, sizeBytes }, 'update accepted');
      return { kind: 'accepted' };
    }
    // Other sites were quicker: where more are asked than needed, that is an ordinary day.
    const level = verdict.problem.code === 'round_closed' ? 'info' : 'warn';
    logger[level]({ ...upload.key, error: verdict.problem }, `update rejected: ${verdict.problem.reason}`);
    return { kind: 'rejected', problem: verdict.problem.toBody() };
  }

  async #byTicket(
    upload: PendingUpload,
    request: Parameters<Line['ask']>[1],
    work: Work,
    line: Line,
    throttle: ProgressThrottle | undefined,
  ): Promise<UploadVerdict> {
    const { uploader, clock, logger } = this.#options;
    for (let tickets = 1; ; tickets++) {
      const granted = work.nextTicket();
      line.ask(work, request);
      const first = await Promise.race([granted, work.verdict.then((verdict) => ({ verdict }))]);
      if ('verdict' in first) return first.verdict;
      // A verdict over the session ends an upload that is still trying.
      const judged = new AbortController();
      const signal = AbortSignal.any([work.signal, judged.signal]);
      const uploading = uploadParts(uploader, {
        ticket: first,
        path: upload.path,
        sizeBytes: upload.sizeBytes,
        signal,
        onBytes: (completed) => throttle?.report({ phase: 'upload', completed, total: upload.sizeBytes }),
      });
      try {
        const verdict = await Promise.race([uploading.then((answer) => answer ?? work.verdict), work.verdict]);
        judged.abort(new OctomilError('cancelled', 'the verdict is known'));
        await uploading.catch(() => undefined);
        return verdict;
      } catch (thrown) {
        const error = toOctomilError(thrown, 'weight_upload_failed');
        if (work.signal.aborted || (error.entry.retry === 'never' && error.code !== 'ticket_invalid')) throw error;
        if (tickets >= MAX_TICKETS) throw error;
        logger.warn({ ...upload.key, error }, 'upload was cut; asking which parts arrived');
        await clock.sleep(250 * 2 ** tickets, work.signal);
      }
    }
  }
}

/** What did not leave with an update, by the names of the tensors; Ditto's whole second model. */
function stayedHere(metricsJson: string): { stayed?: readonly string[] } {
  const { personalization } = JSON.parse(metricsJson) as { personalization?: PersonalReport };
  if (personalization === undefined) return {};
  return { stayed: personalization.method === 'ditto' ? ['the personal model'] : personalization.stayed };
}

export function auditOf(key: AssignmentKey, { federation, model, roundNumber, dataSet, rule }: WorkContext) {
  return { assignmentId: key.assignmentId, federation, model, round: roundNumber, dataSet, rule };
}
