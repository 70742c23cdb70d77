/** One line of the doctor's table. */
export interface DoctorCheck {
  readonly check: string;
  readonly ok: boolean;
  /** What was found. */
  readonly detail: string;
  /** What to do about it; empty when it is well. */
  readonly hint: string;
}

export const well = (check: string, detail: string): DoctorCheck => ({ check, ok: true, detail, hint: '' });
/** Without a hint where the detail says what to do. */
export const ill = (check: string, detail: string, hint = ''): DoctorCheck => ({ check, ok: false, detail, hint });
