/**
 * Counters in the text format of Prometheus (exposition format 0.0.4).
 *
 * @module
 */

/** Upper bounds of the buckets of times, in seconds. */
const BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] as const;

/** A value that is read when somebody asks. */
interface Gauge {
  readonly help: string;
  readonly read: () => number;
}

/** Times of one kind. */
class Histogram {
  readonly #counts = new Array<number>(BUCKETS.length).fill(0);
  #sum = 0;
  #count = 0;

  observe(seconds: number): void {
    this.#sum += seconds;
    this.#count++;
    for (const [i, bound] of BUCKETS.entries()) if (seconds <= bound) this.#counts[i]++;
  }

  lines(name: string): string[] {
    const buckets = BUCKETS.map((bound, i) => `${name}_bucket{le="${bound}"} ${this.#counts[i]}`);
    return [
      ...buckets,
      `${name}_bucket{le="+Inf"} ${this.#count}`,
      `${name}_sum ${this.#sum}`,
      `${name}_count ${this.#count}`,
    ];
  }
}

/** Counters of the server. */
export class Metrics {
  promptTokens = 0;
  cachedTokens = 0;
  generatedTokens = 0;
  readonly firstToken = new Histogram();
  readonly request = new Histogram();
  readonly #responses = new Map<number, number>();
  readonly #gauges: Readonly<Record<string, Gauge>>;

  /** @param gauges by the name without `xquant_` */
  constructor(gauges: Readonly<Record<string, Gauge>>) {
    this.#gauges = gauges;
  }

  /** Counts a response. @param status 499 for a client that went away, as nginx has it */
  respond(status: number): void {
    this.#responses.set(status, (this.#responses.get(status) ?? 0) + 1);
  }

  /** Everything, as text. */
  text(): string {
    const counters: [string, string, number][] = [
      ['prompt_tokens_total', 'Tokens of prompts, cached ones included', this.promptTokens],
      ['cached_tokens_total', 'Tokens of prompts that a kept conversation had', this.cachedTokens],
      ['generated_tokens_total', 'Tokens generated', this.generatedTokens],
    ];
    const statuses = [...this.#responses].sort(([a], [b]) => a - b);
    return [
      ...section('responses_total', 'counter', 'Responses by status', (name) =>
        statuses.map(([status, count]) => `${name}{status="${status}"} ${count}`),
      ),
      ...counters.flatMap(([name, help, value]) =>
        section(name, 'counter', help, (full) => [`${full} ${value}`]),
      ),
      ...Object.entries(this.#gauges).flatMap(([name, { help, read }]) =>
        section(name, 'gauge', help, (full) => [`${full} ${read()}`]),
      ),
      ...section('first_token_seconds', 'histogram', 'Time from a request to its first token', (name) =>
        this.firstToken.lines(name),
      ),
      ...section('request_seconds', 'histogram', 'Time from a request to its end', (name) =>
        this.request.lines(name),
      ),
      '',
    ].join('\n');
  }
}

function section(name: string, type: string, help: string, lines: (name: string) => string[]): string[] {
  const full = `xquant_${name}`;
  return [`# HELP ${full} ${help}`, `# TYPE ${full} ${type}`, ...lines(full)];
}
