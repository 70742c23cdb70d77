/** Attempts within which a coordinator that merely restarted is looked for about twice a second. */
const QUICK_ATTEMPTS = 24;
const QUICK_CAP_MS = 1_000;
const CAP_MS = 30_000;
/** Where counting goes on after a session that was welcomed but short: from here on the quick cap holds. */
export const ATTEMPT_AFTER_WELCOME = 4;

/**
 * How long to wait before attempt `attempt` (0 is the first repetition): exponential with full jitter, as in AWS's
 * "Exponential Backoff And Jitter". For about ten seconds of outage the cap is one second, so that a restarted
 * coordinator gets its agents back within two; then it doubles up to half a minute.
 *
 * @param random 0 to 1
 */
export function reconnectDelayMs(attempt: number, random: number): number {
  const capMs =
    attempt < QUICK_ATTEMPTS
      ? Math.min(QUICK_CAP_MS, 100 * 2 ** attempt)
      : Math.min(CAP_MS, QUICK_CAP_MS * 2 ** (attempt - QUICK_ATTEMPTS + 1));
  return random * capMs;
}

/** For what only a person can mend (a revoked credential, a copied one): between half a minute and a minute. */
export function slowRetryDelayMs(random: number): number {
  return CAP_MS + random * CAP_MS;
}
