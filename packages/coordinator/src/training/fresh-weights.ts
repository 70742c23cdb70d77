/** A word in place of a version: fresh weights, although the model has versions. */
export const INITIAL_BASE = 'initial';

/** What to do, as it is written in each place. */
export const FRESH_WEIGHTS = `train from fresh weights: --base-version ${INITIAL_BASE} (SDK: baseVersion: '${INITIAL_BASE}'; REST: base_version)`;
