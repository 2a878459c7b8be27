/** The `openai` package's types with what Unsway adds to them: fields of requests, keys of choices. Nothing of it runs. */

import type OpenAI from "openai";
import type { APIPromise } from "openai";
import type { ChatCompletionStream, ChatCompletionStreamParams as StreamParams } from "openai/lib/ChatCompletionStream";
import type { ExtractParsedContentFromParams } from "openai/lib/parser";
import type { Stream } from "openai/streaming";
import type { Schemas } from "./types.js";

type Options = OpenAI.RequestOptions;

/** Fields of chats that only Unsway has: `steering`, `top_k`, `min_p` ... */
export type ChatExtensions = Omit<Schemas["ChatRequest"], keyof OpenAI.ChatCompletionCreateParamsNonStreaming>;
export type TextExtensions = Omit<Schemas["CompletionRequest"], keyof OpenAI.CompletionCreateParamsNonStreaming>;

/** A reply whose choices have what Unsway says of them. */
type With<Reply extends { choices: object[] }, Extra> = Omit<Reply, "choices"> & {
  choices: (Omit<Reply["choices"][number], keyof Extra> & Extra)[];
};

export type SteeredChatCompletion = With<OpenAI.ChatCompletion, Pick<Schemas["Choice"], "logprobs" | "steering">>;
export type SteeredChatCompletionChunk = With<
  OpenAI.ChatCompletionChunk,
  Pick<Schemas["ChunkChoice"], "logprobs" | "steering">
>;
export type SteeredCompletion = With<OpenAI.Completion, Pick<Schemas["TextChoice"], "steering">>;

export type ResponseExtensions = Omit<
  Schemas["ResponsesRequest"],
  keyof OpenAI.Responses.ResponseCreateParamsNonStreaming
>;
export type SteeredResponse = OpenAI.Responses.Response & Pick<Schemas["ResponseReply"], "steering">;

type Unformatted = Omit<StreamParams, "response_format">;

export interface SteeredChat extends OpenAI.Chat {
  completions: SteeredChatCompletions;
}

export interface SteeredChatCompletions extends OpenAI.Chat.Completions {
  create(
    body: OpenAI.ChatCompletionCreateParamsNonStreaming & ChatExtensions,
    options?: Options,
  ): APIPromise<SteeredChatCompletion>;
  create(
    body: OpenAI.ChatCompletionCreateParamsStreaming & ChatExtensions,
    options?: Options,
  ): APIPromise<Stream<SteeredChatCompletionChunk>>;
  create(
    body: OpenAI.ChatCompletionCreateParams & ChatExtensions,
    options?: Options,
  ): APIPromise<SteeredChatCompletion | Stream<SteeredChatCompletionChunk>>;
  /** Generic in the format alone: were the whole body a type parameter, keys that do not exist would pass. */
  stream<
    Format extends StreamParams["response_format"],
    Parsed = ExtractParsedContentFromParams<Unformatted & { response_format: Format }>,
  >(
    body: Unformatted & { response_format?: Format } & ChatExtensions,
    options?: Options,
  ): ChatCompletionStream<Parsed>;
}

export interface SteeredCompletions extends OpenAI.Completions {
  create(
    body: OpenAI.CompletionCreateParamsNonStreaming & TextExtensions,
    options?: Options,
  ): APIPromise<SteeredCompletion>;
  create(
    body: OpenAI.CompletionCreateParamsStreaming & TextExtensions,
    options?: Options,
  ): APIPromise<Stream<SteeredCompletion>>;
  create(
    body: OpenAI.CompletionCreateParams & TextExtensions,
    options?: Options,
  ): APIPromise<SteeredCompletion | Stream<SteeredCompletion>>;
}

export interface SteeredResponses extends OpenAI.Responses {
  create(
    body: OpenAI.Responses.ResponseCreateParamsNonStreaming & ResponseExtensions,
    options?: Options,
  ): APIPromise<SteeredResponse>;
  create(
    body: OpenAI.Responses.ResponseCreateParamsStreaming & ResponseExtensions,
    options?: Options,
  ): APIPromise<Stream<OpenAI.Responses.ResponseStreamEvent>>;
  create(
    body: OpenAI.Responses.ResponseCreateParams & ResponseExtensions,
    options?: Options,
  ): APIPromise<SteeredResponse | Stream<OpenAI.Responses.ResponseStreamEvent>>;
}
