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
export const ill = (check: string, detail: string, hint: string): DoctorCheck => ({ check, ok: false, detail, hint });
