/**
 * Errors as an OpenAI client expects them: a status, and `{ error: { message, type, param, code } }`.
 *
 * @module
 */

import { ConfigError, MemoryError } from '../errors.js';
import { BusyError } from './slots.js';

/** Statuses that the server answers with. */
export type ErrorStatus = 400 | 401 | 403 | 404 | 405 | 408 | 413 | 415 | 499 | 500 | 503;

/** A request that cannot be answered. */
export class ApiError extends Error {
  override readonly name = 'ApiError';

  constructor(
    readonly status: ErrorStatus,
    message: string,
    /** The parameter at fault. */
    readonly param: string | null = null,
    /** Stable and machine-readable. */
    readonly code: string | null = null,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  /** The body of the response. */
  get body(): object {
    const type =
      this.status >= 500
        ? 'server_error'
        : this.status === 401
          ? 'authentication_error'
          : 'invalid_request_error';
    return { error: { message: this.message, type, param: this.param, code: this.code } };
  }
}

/** A request ran longer than it may. */
export class TimeoutReason extends Error {
  override readonly name = 'TimeoutReason';
}

/** The client went away. */
export class GoneReason extends Error {
  override readonly name = 'GoneReason';
}

/** An error as a response. Details are given only if the error is known to be the client's fault. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  const { message } = error as Error;
  if (error instanceof BusyError) return new ApiError(503, message, null, 'server_busy');
  if (error instanceof MemoryError) return new ApiError(503, message, null, 'out_of_memory');
  if (error instanceof TimeoutReason) return new ApiError(408, message, null, 'timeout');
  if (error instanceof GoneReason) return new ApiError(499, message, null, 'client_gone');
  if (error instanceof ConfigError) {
    const isLong = error.option === 'prompt' && /^at most/.test(error.allowed);
    return new ApiError(400, message, error.option, isLong ? 'context_length_exceeded' : null, {
      cause: error,
    });
  }
  if (error instanceof RangeError || error instanceof TypeError) {
    return new ApiError(400, message, null, null, { cause: error });
  }
  return new ApiError(500, 'the server failed; its log says why', null, null, { cause: error });
}
