/**
 * A model from a GGUF file, or from the parts of one: metadata to config, tensors to weights.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import { printableName } from '../printable.js';
import { WEIGHT_TYPES } from '../quant/weight-types.js';
import { checkTokenizerSource } from '../text/tokenizer.js';
import type { TokenizerSource } from '../text/tokenizer-source.js';
import { countElements, type StoredTensor, selectTensors } from './assemble.js';
import { familyOfGguf } from './families/index.js';
import { CONFIG_TENSORS, readGgufConfig, type SourcedTensor } from './gguf-config.js';
import type { GgufHeader } from './gguf-header.js';
import { GgufMetadata } from './gguf-metadata.js';
import { openParts, type Siblings } from './gguf-split.js';
import { summarizeTensors } from './model-file.js';
import type { OpenModel } from './open-model.js';
import type { ByteSource } from './source.js';

/**
 * Opens a GGUF file: reads and checks everything but the weights.
 *
 * @param source of the file, or of any part of a model that is split over several
 * @param siblings where the other parts are; absent where a file has no neighbours
 * @throws {FormatError | ShapeError} if the file contradicts itself; names the place
 * @throws {UnsupportedModelError} names the architecture, type or tensor
 * @throws {LoadError} if the file cannot be read
 */
export async function openGguf(source: ByteSource, siblings?: Siblings): Promise<OpenModel> {
  const parts = await openParts(source, siblings);
  const [{ header, source: first }] = parts;
  const path = first.name;
  const metadata = new GgufMetadata(header, path);
  const sourced = parts.flatMap((part) =>
    part.header.tensors.map((tensor): SourcedTensor => ({ ...tensor, source: part.source })),
  );
  const config = await readGgufConfig(metadata, sourced);
  const layout = { format: 'gguf', family: familyOfGguf(metadata.architecture, path), config } as const;
  const tensors = sourced.map((tensor) => storedTensor(tensor, path));
  const selected = selectTensors(tensors, layout, path, (name) => CONFIG_TENSORS.includes(name));
  const tokenizer = tokenizerSource(header, path);
  checkTokenizerSource(tokenizer);
  const tokens = header.metadata.get('tokenizer.ggml.tokens');
  if (Array.isArray(tokens) && tokens.length > config.vocabSize) {
    const reason = `${tokens.length} tokens, but the embedding has ${config.vocabSize} rows`;
    throw new FormatError(path, 'tokenizer.ggml.tokens', reason);
  }
  const template = header.metadata.get('tokenizer.chat_template');
  return {
    header: {
      name: printableName(metadata.textOf('general.name') || path),
      format: 'gguf',
      config,
      tokenizer,
      ...(typeof template === 'string' ? { chatTemplate: template } : {}),
      ...summarizeTensors(tensors),
      parameterCount: countElements(selected),
      byteLength: parts.reduce((sum, part) => sum + part.source.size, 0),
    },
    selected,
    layout,
  };
}

function storedTensor(tensor: SourcedTensor, path: string): StoredTensor {
  const { name, type, offset, byteLength, source } = tensor;
  if (byteLength === undefined) {
    // Not even its size is known here, so nothing else can be said about the file.
    throw new UnsupportedModelError(path, `type ${type} of tensor "${name}"`, WEIGHT_TYPES.join(', '));
  }
  // Some writers pad the shape of a vector or matrix with ones on the outside; they say nothing.
  const shape = tensor.shape.slice();
  while (shape.length > 1 && shape[0] === 1) shape.shift();
  return { name, type, shape, offset, byteLength, source };
}

function tokenizerSource(header: GgufHeader, path: string): TokenizerSource {
  const metadata = new Map([...header.metadata].filter(([key]) => key.startsWith('tokenizer.')));
  const model = metadata.get('tokenizer.ggml.model');
  if (model === undefined || model === 'none' || model === 'no_vocab') return { kind: 'none', path };
  return { kind: 'gguf', path, metadata };
}
