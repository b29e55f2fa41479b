// dev/make_api_types.py makes this file from the server's OpenAPI document: do not edit.

export interface Operations {
  "GET /models": { body: undefined; answer: ModelList };
  "GET /models/{id}": { body: undefined; answer: ModelDetails };
  "DELETE /models/{id}": { body: undefined; answer: null };
  "POST /models/{id}/save": { body: SaveRequest; answer: ModelInfo };
  "GET /models/{id}/data": { body: undefined; answer: Data };
  "POST /sample": { body: SampleBody; answer: Samples };
  "POST /complete": { body: CompleteBody; answer: Completions };
  "POST /words": { body: WordsBody; answer: Words };
  "POST /score": { body: ScoreBody; answer: Scores };
  "POST /next-token": { body: NextTokenBody; answer: NextTokens };
  "GET /jobs": { body: undefined; answer: JobList };
  "POST /jobs": { body: JobRequest; answer: JobAnswer };
  "GET /jobs/{id}": { body: undefined; answer: JobAnswer };
  "DELETE /jobs/{id}": { body: undefined; answer: null };
  "POST /jobs/{id}/pause": { body: undefined; answer: JobAnswer };
  "POST /jobs/{id}/resume": { body: undefined; answer: JobAnswer };
  "POST /jobs/{id}/stop": { body: undefined; answer: JobAnswer };
  "GET /jobs/{id}/events": { body: undefined; answer: null };
  "POST /columns": { body: ColumnsRequest; answer: Columns };
  "POST /clean": { body: CleanRequest; answer: CleanAnswer };
  "GET /models/{id}/embeddings": { body: undefined; answer: EmbeddingMap };
  "POST /trace": { body: TraceBody; answer: Trace };
  "POST /graph": { body: ExpressionBody | LossBody; answer: Graph };
  "POST /preferences": { body: PreferencesBody; answer: Rated };
  "GET /preferences/{id}": { body: undefined; answer: Rated };
  "DELETE /preferences/{id}": { body: undefined; answer: null };
  "POST /preferences/{id}/answers": { body: AnswersBody; answer: Rated };
  "DELETE /preferences/{id}/answers/last": { body: undefined; answer: Rated };
  "POST /preferences/{id}/save": { body: SaveRequest; answer: ModelInfo };
  "GET /limits": { body: undefined; answer: Allowed };
}

export interface Added {
  to: number;
  amount: number;
  grad: number;
}

export interface Allowed {
  limits: Record<string, number>;
  settings: Record<string, number>;
}

export interface AnswersBody {
  answers: (VerdictBody | PreferenceBody)[];
}

export interface Best {
  step: number;
  over_fitted: boolean;
  samples: string[];
  validation_loss: number | null;
  gpt_loss: number | null;
  ngram_loss: number | null;
  blend: Blend | null;
  num_folds: number | null;
}

export interface Blend {
  weight: number;
  order: number;
}

export interface Changed {
  before: string;
  after: string;
  line: number;
}

export interface CharacterCount {
  text: string;
  count: number;
}

export interface CleanAnswer {
  num_lines: number;
  num_docs: number;
  num_blank: number;
  num_repetitions: number;
  num_stripped: number;
  num_normalized: number;
  num_validation: number;
  longest: number;
  characters: number;
  removed: Removed[];
  changed: Changed[];
  docs: string[];
  tidied: Tidied | null;
  warnings: string[];
  looks_like: "csv" | "tsv" | "jsonl" | "json" | null;
}

export interface CleanRequest {
  format?: "text" | "csv" | "tsv" | "jsonl" | "json";
  column?: string | null;
  header?: boolean;
  name?: string | null;
  text: string;
}

export interface Columns {
  columns: string[];
}

export interface ColumnsRequest {
  text: string;
  format: "csv" | "tsv" | "jsonl" | "json";
  header?: boolean;
  name?: string | null;
}

export interface Compared {
  base: string;
  tuned: string;
  base_in_list: boolean;
  tuned_in_list: boolean;
}

export interface CompleteBody {
  model: string;
  prefix?: string;
  n?: number;
  given?: Record<string, string | Record<string, number>> | null;
}

export interface CompletionFound {
  text: string;
  logprob: number;
  share: number;
}

export interface Completions {
  exact: number;
  completions: CompletionFound[];
}

export interface Data {
  source: string;
  num_docs: number;
  num_repetitions: number;
  num_cut: number;
  num_train: number;
  num_validation: number;
  characters: CharacterCount[];
  lengths: LengthCount[];
  examples: Examples;
}

export interface EmbeddingMap {
  tokens: TokenPoint[];
  token_shares: [number, number];
  positions: PositionPoint[];
  position_shares: [number, number];
  sources: Record<string, Source>;
}

export interface Examples {
  train: string[];
  validation: string[];
}

export interface ExpressionBody {
  kind: "expression";
  a: number;
  b: number;
  c: number;
}

export interface Graph {
  nodes: Node[];
  backward: number[];
  root: number;
  steps: Step[];
  num_values: number;
  folded: string | null;
  sources: Record<string, Source>;
}

export interface Health {
  status: string;
  version: string;
}

export interface JobAnswer {
  state: "queued" | "starting" | "running" | "paused" | "stopped" | "done" | "failed";
  ahead: number | null;
  step: number;
  seconds: number;
  lines: Lines;
  id: string;
  error: string | null;
  source: string;
  init_from: string | null;
  num_steps: number;
  budget: number | null;
  num_docs: number;
  num_params: number;
  every: number;
  moments: MomentAnswer[];
  model: string | null;
  best: Best | null;
  losses: [number, number][];
  validation_losses: [number, number][];
}

export interface JobList {
  jobs: JobSummary[];
}

export interface JobRequest {
  format?: "text" | "csv" | "tsv" | "jsonl" | "json";
  column?: string | null;
  header?: boolean;
  name?: string | null;
  text?: string | null;
  builtin?: "names" | null;
  budget?: number | null;
  seed?: number;
  settings?: Settings;
  init_from?: "base" | "scratch" | null;
  blend?: boolean;
  given?: string[] | null;
  weight?: string | null;
}

export interface JobSummary {
  state: "queued" | "starting" | "running" | "paused" | "stopped" | "done" | "failed";
  ahead: number | null;
  step: number;
  seconds: number;
  lines: Lines;
  id: string;
  error: string | null;
  source: string;
  init_from: string | null;
  num_steps: number;
  budget: number | null;
  num_docs: number;
  num_params: number;
  every: number;
  moments: MomentAnswer[];
  model: string | null;
  best: Best | null;
}

export interface LeftOut {
  copies: number;
  duplicates: number;
}

export interface LengthCount {
  length: number;
  num_train: number;
  num_validation: number;
}

export interface Lines {
  uniform: number | null;
  ngram: number | null;
  ngram_order: number | null;
}

export interface LossBody {
  model: string;
  text: string;
  kind: "loss";
  position: number;
}

export interface Measured {
  kl: number;
  kl_error: number;
  liked: number;
  disliked: number;
  reward: number;
  novelty: number;
  base_novelty: number;
  seconds: number;
}

export interface ModelDetails {
  id: string;
  kind: "opened" | "trained" | "tuned";
  num_params: number;
  n_layer: number;
  n_embd: number;
  n_head: number;
  block_size: number;
  vocab_size: number;
  num_docs: number;
  num_steps: number;
  validation_loss: number | null;
  gpt_loss: number | null;
  ngram_loss: number | null;
  blend: Blend | null;
  num_folds: number | null;
  saved: boolean;
  path: string | null;
  parent: string | null;
  step: number | null;
  steps: number[];
  prompts: boolean;
  given: Record<string, string[]>;
  text: boolean;
  seed: number;
  tokenizer: "char" | "bpe";
  config: Record<string, unknown>;
  source: string;
}

export interface ModelInfo {
  id: string;
  kind: "opened" | "trained" | "tuned";
  num_params: number;
  n_layer: number;
  n_embd: number;
  n_head: number;
  block_size: number;
  vocab_size: number;
  num_docs: number;
  num_steps: number;
  validation_loss: number | null;
  gpt_loss: number | null;
  ngram_loss: number | null;
  blend: Blend | null;
  num_folds: number | null;
  saved: boolean;
  path: string | null;
  parent: string | null;
  step: number | null;
  steps: number[];
  prompts: boolean;
  given: Record<string, string[]>;
  text: boolean;
  seed: number;
  tokenizer: "char" | "bpe";
}

export interface ModelList {
  models: ModelInfo[];
}

export interface MomentAnswer {
  step: number;
  model: string;
  samples: string[];
  blend: Blend | null;
}

export interface Near {
  text: string;
  similarity: number;
}

export interface NextToken {
  id: number;
  text: string;
  logit: number;
  probability: number;
  kept: boolean;
  gpt: number | null;
  ngram: number | null;
}

export interface NextTokenBody {
  model: string;
  prefix?: string;
  temperature?: number;
  top_k?: number | null;
  top_p?: number;
  prompt?: string | null;
  given?: Record<string, string | Record<string, number>> | null;
}

export interface NextTokens {
  tokens: NextToken[];
  end: number;
  position: number;
  blend: Blend | null;
}

export interface Node {
  id: number;
  label: string;
  op: string;
  data: number;
  grad: number;
  inputs: number[];
  local_grads: number[];
  folded?: number;
}

export interface PositionPoint {
  position: number;
  x: number;
  y: number;
}

export interface Preference {
  chosen: string;
  rejected: string;
  prompt?: string | null;
}

export interface PreferenceBody {
  chosen: string;
  rejected: string;
}

export interface PreferencesBody {
  model: string;
  pairs?: boolean;
  every?: number;
  seed?: number | null;
}

export interface Problem {
  error: string;
}

export interface Rated {
  id: string;
  base: string;
  model: string;
  pairs: boolean;
  every: number;
  seed: number;
  answers: (Preference | Rating)[];
  num_aligned: number;
  proposals: (string | [string, string])[];
  compared: Compared[];
  measured: Measured | null;
}

export interface Rating {
  text: string;
  liked: boolean;
  prompt?: string | null;
}

export interface Removed {
  text: string;
  why: string;
  line: number;
}

export interface Sample {
  text: string;
  logprob: number | null;
  in_list: boolean;
  nearest: Near | null;
}

export interface SampleBody {
  model: string;
  n?: number;
  temperature?: number | null;
  seed?: number | null;
  top_k?: number | null;
  top_p?: number;
  prefix?: string;
  suffix?: string;
  contains?: string;
  pattern?: string | null;
  regex?: string | null;
  min_len?: number;
  max_len?: number | null;
  novel?: boolean;
  unique?: boolean;
  prompt?: string | null;
  given?: Record<string, string | Record<string, number>> | null;
  nearest?: boolean;
}

export interface Samples {
  seed: number;
  temperature: number;
  tried: number;
  ended: "n" | "tried" | "time";
  left_out: LeftOut;
  warning: string | null;
  samples: Sample[];
}

export interface SaveRequest {
  name: string;
}

export interface ScoreBody {
  model: string;
  texts: string[];
  unknown?: "error" | "skip" | "replace" | "zero";
  given?: Record<string, string | Record<string, number>> | null;
  by?: string | null;
}

export interface ScoreFound {
  text: string;
  scored: string;
  index: number;
  values: Record<string, number> | null;
  logprob: number | null;
  bits_per_char: number | null;
  percentile: number | null;
  compared_with: "validation" | "list" | null;
  surprise: number;
  surprising: string;
  cut: boolean;
}

export interface Scores {
  scores: ScoreFound[];
}

export interface Settings {
  n_layer?: number | null;
  n_embd?: number | null;
  n_head?: number | null;
  block_size?: number | null;
  num_steps?: number | null;
  learning_rate?: number | null;
  batch_size?: number | null;
  dropout?: number | null;
}

export interface Source {
  function: string;
  file: string;
  line: number;
}

export interface Step {
  id: number;
  added: Added[];
}

export interface Surprise {
  text: string;
  gpt: number | null;
  ngram: number | null;
  blend: number | null;
}

export interface Tidied {
  text: string;
  num_docs: number;
  steps: TidyingStep[];
}

export interface TidyingStep {
  name: string;
  action: "changed" | "dropped";
  count: number;
  examples: [string, string][];
}

export interface Token {
  id: number;
  text: string;
  position: number;
}

export interface TokenPoint {
  id: number;
  text: string;
  x: number;
  y: number;
  named: boolean;
}

export interface Trace {
  tokens: Token[];
  attention: number[][][][];
  surprise: Surprise[];
  ngram_order: number | null;
  no_ngram: string | null;
  sources: Record<string, Source>;
}

export interface TraceBody {
  model: string;
  text: string;
}

export interface VerdictBody {
  text: string;
  liked: boolean;
}

export interface WordFound {
  text: string;
  probability: number;
}

export interface Words {
  words: WordFound[];
  found: number;
  total: number;
  covered: number;
}

export interface WordsBody {
  model: string;
  text?: string;
  n?: number;
  among?: string[];
  given?: Record<string, string | Record<string, number>> | null;
}
