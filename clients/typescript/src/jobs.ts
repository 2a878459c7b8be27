import OpenAI, { type APIPromise } from "openai";
import type { Stream } from "openai/streaming";
import type { Job, JobDeleted, JobEvent, JobList, JobRequest, JobSummary } from "./types.js";

const ROOT = "/steering/jobs";

/** `/v1/steering/jobs`: calibrations and evaluations beside a running server. */
export class Jobs {
  constructor(private readonly client: OpenAI) {}

  /** Starts one, or puts it in the queue. */
  create(body: JobRequest, options?: OpenAI.RequestOptions): APIPromise<Job> {
    return this.client.post(ROOT, { ...options, body });
  }

  /** The caller's own, newest first. */
  async list(options?: OpenAI.RequestOptions): Promise<JobSummary[]> {
    return (await this.client.get<JobList>(ROOT, options)).data;
  }

  /** One, with its progress, its last lines and its result. */
  get(id: string, options?: OpenAI.RequestOptions): APIPromise<Job> {
    return this.client.get(path(id), options);
  }

  /** Cancels one; forgets one that has ended. */
  cancel(id: string, options?: OpenAI.RequestOptions): APIPromise<Job | JobDeleted> {
    return this.client.delete(path(id), options);
  }

  /**
   * What a job says, from its beginning: the last event is `end`. It throws where the stream breaks off before, and what an
   * `error` says (the server shuts down); to go on is to call it again.
   */
  async *events(id: string, options?: OpenAI.RequestOptions): AsyncGenerator<JobEvent, void> {
    const stream: Stream<JobEvent> = await this.client.get(`${path(id)}/events`, {
      ...options,
      stream: true,
      __synthesizeEventData: true, // with the name of each event beside its data
    });
    for await (const event of stream) {
      yield event;
      if (event.event === "end") return;
    }
    throw new OpenAI.APIConnectionError({ message: "The events of the job broke off before its end." });
  }
}

function path(id: string): string {
  return `${ROOT}/${encodeURIComponent(id)}`;
}
