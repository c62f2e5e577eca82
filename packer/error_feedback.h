// Rounding of columns with error feedback: what rounding one column changes in W x is made good, as
// far as inputs go together, by the columns that are rounded after it.
//
// With E = W - stored and H = R R^T the moments of the inputs (R upper triangular), the mean
// squared error of W x is |E R|^2, and its column k is r_kk (e_k + sum over j < k of e_j r_jk /
// r_kk). So column k is rounded after sum_j e_j r_jk / r_kk has been added to it. Source: the
// successive rounding of GPTQ (Frantar et al., arXiv 2210.17323) in the form of LDLQ (Chee et al.,
// QuIP, arXiv 2307.13304), which needs no inverse. Stateless.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "packer/input_moments.h"
#include "proto/store/v1/unit_codec.h"

namespace tidegate {

// Adjusts columns [units.size(), elements] in place, so that EncodeColumn() of each, as it is
// afterwards, rounds them with feedback. Column c belongs to input units[c]; units of one block of
// the moments correct one another, in the order of their numbers, whatever order they come in. The
// result does not depend on the number of threads. Without moments of any token nothing changes.
// REQUIRES: IsGrouped(encoding), elements a multiple of kQuantGroup, units < moments.inputs().
// Errors: DATA_LOSS (moments that are not finite).
absl::Status AdjustForRounding(UnitEncoding encoding, const InputMoments& moments,
                               std::span<const uint32_t> units, uint64_t elements, uint32_t threads,
                               float* columns);

}  // namespace tidegate
