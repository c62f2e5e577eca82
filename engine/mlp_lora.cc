// The part of Mlp that LoRA adapters add to its sweeps.
#include "engine/mlp.h"

namespace tidegate {

// Units that a mask leaves out count as 0.
const float* Mlp::MaskedInputs(const Sweep& sweep) {
  if (sweep.positions.size() == sweep.units) return sweep.x;
  masked_.assign(sweep.units, 0.0f);
  for (const uint32_t position : sweep.positions) {
    const uint32_t unit = sweep.order->Unit(position) - sweep.first_unit;
    masked_[unit] = sweep.x[unit];
  }
  return masked_.data();
}

void Mlp::FinishSweep(const Sweep& sweep, StageTimes& times) {
  if (InParts(sweep)) FinishParts(sweep, times);
  const LayerLora& lora = model_->lora.layers[sweep.layer];
  const bool input = sweep.kind == UnitKind::kInput;
  const LoraFactors* factors[2] = {input ? &lora.gate : &lora.down, input ? &lora.up : nullptr};
  const StageTimer timer(times, Stage::kUnits);
  const float* x = nullptr;
  for (size_t c = 0; c < 2; ++c) {
    if (factors[c] == nullptr || factors[c]->rank == 0) continue;
    if (x == nullptr) x = MaskedInputs(sweep);
    lora_.Add(*factors[c], x, sweep.tokens, sweep.many, sweep.precision, sweep.y[c]);
  }
}

}  // namespace tidegate
