/**
 * From the layout of a layer to its plan: the one switch over kinds of the engine.
 *
 * @module
 */

import { layerLayout, layoutSizes } from '../../cache/layout.js';
import { CACHE_VARIANTS } from '../../cache/options.js';
import { ConfigError } from '../../errors.js';
import { CrossLayerPlan } from './cross-layer-plan.js';
import { KeyValuePlan } from './key-value-plan.js';
import { LatentPlan } from './latent-plan.js';
import { OwnBasisPlan } from './own-basis-plan.js';
import type { LayerPlan, PlanSource } from './plan.js';
import { PredictedPlan } from './predicted-plan.js';
import { XPlan } from './x-plan.js';

/**
 * The plan of a layer.
 *
 * @throws {ConfigError} if the engine has none for such a layer
 * @throws {MemoryError} if there is no room for folded weights
 */
export function createPlan(source: PlanSource): LayerPlan {
  const { options, config, projection, calibrated } = source;
  const layout = layerLayout(options, layoutSizes(config), projection.layer, calibrated);
  switch (layout.kind) {
    case 'keysAndValues':
      return new KeyValuePlan(source, layout);
    case 'x':
      return new XPlan(source, layout);
    case 'latents':
      return new LatentPlan(source, layout);
    case 'baseX':
      return layout.sum === 'none' ? new XPlan(source, layout) : new CrossLayerPlan(source, layout);
    case 'delta':
    case 'latentDelta':
      return new CrossLayerPlan(source, layout);
    case 'calibrated':
      return options.predict > 0 ? new PredictedPlan(source, layout) : new OwnBasisPlan(source, layout);
    case 'nonUniform': {
      const { variant } = options;
      const others = CACHE_VARIANTS.filter((each) => each !== variant).join(', ');
      const allowed = `one of ${others} on wasm (${variant} runs on the reference backend)`;
      throw new ConfigError('cache', variant, allowed);
    }
  }
}
