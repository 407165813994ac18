/**
 * A model from a Hugging Face folder: config.json, safetensors (one file or shards), tokenizer.json.
 *
 * @module
 */

import { FormatError } from '../errors.js';
import { MODEL_TENSORS } from '../model/tensors.js';
import { describeValue } from '../printable.js';
import { checkTokenizerSource } from '../text/tokenizer.js';
import { countElements, type StoredTensor, selectTensors } from './assemble.js';
import { familyOfModelType } from './families/index.js';
import { readConfig } from './hugging-face-config.js';
import { parseJsonObject } from './json.js';
import { isObject, type Json } from './json-reader.js';
import { summarizeTensors } from './model-file.js';
import type { OpenModel } from './open-model.js';
import { readSafetensorsHeader } from './safetensors.js';
import { type ByteSource, type FileFolder, isPlainName, readText } from './source.js';
import { tokenizerSource } from './tokenizer-files.js';

/** The file that makes a folder a model. */
export const CONFIG_FILE = 'config.json';

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';

/** Files that an index may name; the largest models have some hundred. */
const MAX_SHARDS = 1000;

/** Buffers that old checkpoints of Llama carry; they follow from the config. */
const ROTARY_BUFFER = /\.rotary_emb\.inv_freq$/;

/**
 * Opens a folder: reads and checks everything but the weights.
 *
 * @param opened collects the files that stay open; the caller closes them
 * @throws {FormatError | ShapeError} if the files contradict each other; names file and place
 * @throws {UnsupportedModelError} names the architecture, option or tensor
 * @throws {LoadError} if a file cannot be read
 */
export async function openHuggingFace(folder: FileFolder, opened: ByteSource[]): Promise<OpenModel> {
  const json = await readJson(folder, CONFIG_FILE);
  if (!json) throw new FormatError(folder.name, CONFIG_FILE, 'the file is missing');
  const path = `${folder.name}/${CONFIG_FILE}`;
  const config = readConfig(json, path);
  const tokenizer = await readTokenizer(folder, json);
  checkTokenizerSource(tokenizer.source);

  const { tensors, byteLength } = await openWeights(folder, opened);
  const layout = { format: 'huggingFace', family: familyOfModelType(json.model_type, path), config } as const;
  const ignored = (name: string) =>
    ROTARY_BUFFER.test(name) || (config.tieWordEmbeddings && name === MODEL_TENSORS.output.huggingFace);
  const selected = selectTensors(tensors, layout, folder.name, ignored);
  return {
    header: {
      name: folder.name.split('/').filter(Boolean).pop() ?? folder.name,
      format: 'hugging-face',
      config,
      tokenizer: tokenizer.source,
      ...(tokenizer.chatTemplate === undefined ? {} : { chatTemplate: tokenizer.chatTemplate }),
      ...summarizeTensors(tensors),
      parameterCount: countElements(selected),
      byteLength,
    },
    selected,
    layout,
  };
}

async function readTokenizer(folder: FileFolder, config: Json) {
  return tokenizerSource({
    folder: folder.name,
    config,
    tokenizer: await readJson(folder, 'tokenizer.json'),
    tokenizerConfig: await readJson(folder, 'tokenizer_config.json'),
    specialTokensMap: await readJson(folder, 'special_tokens_map.json'),
    generationConfig: await readJson(folder, 'generation_config.json'),
    template: await openText(folder, 'chat_template.jinja'),
  });
}

async function openWeights(
  folder: FileFolder,
  opened: ByteSource[],
): Promise<{ tensors: StoredTensor[]; byteLength: number }> {
  // A whole file counts before an index, which may be left from before the shards were merged (as in transformers).
  const whole = await folder.open(SINGLE_FILE);
  const index = whole ? undefined : await readJson(folder, INDEX_FILE);
  const files = index ? shardNames(index, `${folder.name}/${INDEX_FILE}`) : [SINGLE_FILE];
  const tensors: StoredTensor[] = [];
  const names = new Map<string, string>();
  let byteLength = 0;
  for (const file of files) {
    const source = whole ?? (await folder.open(file));
    if (!source) throw new FormatError(folder.name, file, await explainMissing(folder, file));
    opened.push(source);
    byteLength += source.size;
    const header = await readSafetensorsHeader(source);
    for (const { name, dtype, shape, offset, byteLength } of header.tensors) {
      const before = names.get(name);
      if (before) throw new FormatError(source.name, name, `the tensor is in "${before}", too`);
      names.set(name, file);
      tensors.push({ name, type: dtype, shape, offset, byteLength, source });
    }
  }
  return { tensors, byteLength };
}

async function explainMissing(folder: FileFolder, file: string): Promise<string> {
  const others = (await folder.list())?.filter((name) => /\.(bin|pt|pth|h5|msgpack)$/.test(name)) ?? [];
  const hint = others.length > 0 ? ` (there is ${others.join(', ')}, but only safetensors are read)` : '';
  return `the file ${file} is missing${hint}`;
}

function shardNames(index: Json, path: string): string[] {
  const map = index.weight_map;
  if (!isObject(map)) throw new FormatError(path, 'weight_map', 'must map tensor names to files');
  const files = new Set<string>();
  for (const [tensor, file] of Object.entries(map)) {
    // A name with a directory, a scheme or a query could point anywhere, on the disk or at another host.
    if (!isPlainName(file) || !file.endsWith('.safetensors')) {
      const reason = `must name a .safetensors file of the folder, got ${describeValue(file)}`;
      throw new FormatError(path, tensor, reason);
    }
    files.add(file);
  }
  if (files.size > MAX_SHARDS) {
    throw new FormatError(path, 'weight_map', `names ${files.size} files, more than ${MAX_SHARDS}`);
  }
  return [...files].sort();
}

async function readJson(folder: FileFolder, file: string): Promise<Json | undefined> {
  const text = await openText(folder, file);
  if (text === undefined) return undefined;
  return parseJsonObject(text, `${folder.name}/${file}`);
}

async function openText(folder: FileFolder, file: string): Promise<string | undefined> {
  const source = await folder.open(file);
  if (!source) return undefined;
  try {
    return await readText(source);
  } finally {
    await source.close();
  }
}
