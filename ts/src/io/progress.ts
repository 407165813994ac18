/**
 * One number for how far a load is, over all its files.
 *
 * @module
 */

/** How far a load is. Both numbers are bytes, over all files of the model. */
export interface LoadProgress {
  readonly loadedBytes: number;
  /** Absent while it is not known: before the headers are read, or if a server does not tell. */
  readonly totalBytes?: number;
}

/** Adds up what the sources of one load report. */
export class ProgressCounter {
  private loaded = 0;
  private total: number | undefined;

  /** @param report called on every change, if given */
  constructor(private readonly report?: (progress: LoadProgress) => void) {}

  /** Says how many bytes the load will read in all. */
  expect(totalBytes: number): void {
    this.total = totalBytes;
    this.tell();
  }

  /** Says that bytes have arrived. A header read twice does not count beyond the total. */
  add(bytes: number): void {
    this.loaded += bytes;
    this.tell();
  }

  /** Says that all is there, also where nothing had to be read. */
  finish(): void {
    this.total ??= this.loaded;
    this.loaded = this.total;
    this.tell();
  }

  private tell(): void {
    if (!this.report) return;
    if (this.total === undefined) this.report({ loadedBytes: this.loaded });
    else this.report({ loadedBytes: Math.min(this.loaded, this.total), totalBytes: this.total });
  }
}
