"""Include arrows: which folder may include which, and which library may be used where.

    base <- proto <- weightstore/client <- engine <- server <- cli
                  <- weightstore (the rest) <- simulator
                  <- packer
    base <- template <- server
    engine, packer, weightstore, simulator <- measure <- cli

CMake links the same way, but cannot see a header-only include; this test reads every #include of every
C++ file. Tests and benchmarks may include anything; nothing includes them.
"""
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Layer -> layers that it may include besides itself. A file belongs to the longest prefix.
LAYERS = {
    "base": (),
    "proto": ("base",),
    "template": ("base",),
    "packer": ("base", "proto"),
    "weightstore": ("base", "proto", "weightstore/client"),
    "weightstore/client": ("base", "proto"),
    "engine": ("base", "proto", "weightstore/client"),
    "server": ("base", "proto", "weightstore/client", "engine", "template", "server/access"),
    "server/access": ("base",),
    "simulator": ("base", "proto", "weightstore"),
    "measure": ("base", "proto", "packer", "weightstore", "weightstore/client", "engine", "simulator"),
    "cli": ("base", "proto", "packer", "weightstore", "weightstore/client", "engine", "server", "server/access",
            "simulator", "measure", "template"),
}
FREE = ("tests", "bench")  # may include anything, may not be included by a layer

# Headers that the build generates, by the folder their include path starts with.
GENERATED = {"store/": "proto", "tidegate/": "proto", "google/rpc/": "proto", "opentelemetry/": "proto", "inference/": "proto",
             "xds/": "proto"}

# Library -> (how its includes look, files that may have them). One library, few places.
LIBRARIES = {
    "liburing": (r"liburing", r"weightstore/io/"),
    "gRPC": (r"grpc(pp|\+\+)?/|.*\.grpc\.pb\.h",
             r"server/(?!access/)|cli/|weightstore/(admin_service\w*\.(h|cc)|main\.cc)"),
    "the public API's messages": (r"(proto/)?(tidegate/v1|google/rpc|inference|xds)/.*\.pb\.h",
                                  r"server/|cli/|weightstore/(admin_service\w*\.(h|cc)|main\.cc)"),
    "Highway": (r"hwy/", r"engine/kernels/|packer/kernels/"),
    "PCRE2": (r"pcre2", r"engine/tokenizer/pre_tokenizer\.cc"),
    "OpenSSL": (r"openssl/", r"base/tls\w*\.cc|server/access/api_key\.cc"),
    "Boost": (r"boost/", r"base/http_(server\.cc|beast\.h|socket\.(cc|h))"),
    "prometheus-cpp": (r"prometheus/",
                       r"base/(metrics_\w+|process_metrics)|server/(metrics|engine_collector)"
                       r"|weightstore/store_metrics|(weightstore|server)/main\.cc"),
    # Both are large templates: a file that includes one takes seconds longer to compile.
    "CLI11": (r"CLI/", r"base/flag(s|_sources|_values)\.cc|cli/(main|command_text|daemon_flags)\.cc"),
    "nlohmann-json": (r"nlohmann/json\.hpp", r".*\.cc$"),  # headers: json_fwd.hpp
}

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)


def layer_of(path):
    """The layer that a path of the repository or of an include belongs to, or None."""
    for prefix, layer in GENERATED.items():
        if path.startswith(prefix):
            return layer
    candidates = [name for name in (*LAYERS, *FREE) if path.startswith(name + "/")]
    return max(candidates, key=len, default=None)


def violations_in(path, text):
    """Messages about the includes of one file; `path` is relative to the repository."""
    layer, found = layer_of(path), []
    if layer is None or layer in FREE:
        return found
    for _, target in INCLUDE.findall(text):
        target_layer = layer_of(target)
        if target_layer in FREE:
            found.append(f"{path} includes {target}: nothing includes {target_layer}")
        elif target_layer not in (None, layer, *LAYERS[layer]):
            found.append(f"{path} includes {target}: {layer} must not know {target_layer}")
        for library, (pattern, allowed) in LIBRARIES.items():
            if re.match(pattern, target) and not re.match(allowed, path):
                found.append(f"{path} includes {target}: {library} stays out of here")
    return found


def sources():
    for top in {name.split("/")[0] for name in LAYERS}:
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in (".h", ".cc"):
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


class ArrowsTest(unittest.TestCase):
    def test_tree_has_no_violation(self):
        files = list(sources())
        self.assertGreater(len(files), 20, "the tree was not found")
        found = [message for path, text in files for message in violations_in(path, text)]
        self.assertEqual([], found, "\n" + "\n".join(found))

    def test_planted_violations_are_found(self):
        planted = [
            ("base/units.h", '#include "proto/store/v1/shm_layout.h"'),
            ("proto/store/v1/shm_layout.h", '#include "weightstore/client/weight_client.h"'),
            ("weightstore/client/weight_client.cc", '#include "weightstore/cache/slot_table.h"'),
            ("weightstore/cache/lru.cc", '#include "engine/engine.h"'),
            ("engine/decoder.cc", '#include "weightstore/store.h"'),
            ("engine/decoder.cc", '  #  include "weightstore/io/flash_device.h"'),
            ("engine/kernels/kernels.h", '#include "server/metrics.h"'),
            ("server/service.cc", '#include "packer/pack_writer.h"'),
            ("weightstore/store.cc", '#include "packer/pack_writer.h"'),
            ("packer/pack_writer.cc", '#include "weightstore/store.h"'),
            ("packer/pack_writer.cc", '#include "weightstore/client/weight_client.h"'),
            ("measure/evaluation.cc", '#include "cli/model_flags.h"'),
            ("measure/evaluation.cc", '#include "server/metrics.h"'),
            ("measure/report_folder.h", '#include "CLI/CLI.hpp"'),
            ("engine/decoder.cc", '#include "measure/baseline_masks.h"'),
            ("server/service.cc", '#include "cli/commands.h"'),
            ("cli/pack.cc", '#include "tests/support/test_support.h"'),
            ("weightstore/store.cc", "#include <liburing.h>"),
            ("engine/engine.cc", "#include <grpcpp/grpcpp.h>"),
            ("engine/engine.cc", '#include "tidegate/v1/generation.pb.h"'),
            ("weightstore/store.cc", '#include "tidegate/v1/weight_store.grpc.pb.h"'),
            ("engine/model.cc", '#include "hwy/highway.h"'),
            ("packer/pack_writer.cc", '#include "hwy/highway.h"'),
            ("engine/tokenizer/tokenizer.cc", "#include <pcre2.h>"),
            ("engine/engine.cc", "#include <prometheus/registry.h>"),
            ("base/metrics_server.cc", '#include "boost/asio/io_context.hpp"'),
            ("base/http_server.cc", "#include <openssl/ssl.h>"),
            ("base/tls.h", "#include <openssl/ssl.h>"),
            ("base/units.cc", "#include <CLI/CLI.hpp>"),
            ("base/flags.h", '#include "CLI/CLI.hpp"'),
            ("cli/eval.cc", '#include "CLI/CLI.hpp"'),
            ("cli/inspect_report.h", "#include <nlohmann/json.hpp>"),
            ("template/lexer.cc", '#include "engine/utf8.h"'),
            ("engine/engine.cc", '#include "template/template.h"'),
        ]
        for path, line in planted:
            with self.subTest(path=path, line=line):
                self.assertTrue(violations_in(path, "#pragma once\n" + line + "\n"))

    def test_allowed_includes_are_accepted(self):
        allowed = [
            ("proto/store/v1/pack_format.h", '#include "proto/store/v1/manifest.pb.h"'),
            ("proto/store/v1/pack_format.h", '#include "store/v1/manifest.pb.h"'),
            ("weightstore/io/uring_device.cc", "#include <liburing.h>"),
            ("weightstore/store.cc", '#include "weightstore/cache/slot_table.h"'),
            ("weightstore/admin_service.cc", "#include <grpcpp/grpcpp.h>"),
            ("engine/decoder.cc", '#include "weightstore/client/weight_client.h"'),
            ("engine/kernels/mlp.cc", '#include "hwy/highway.h"'),
            ("packer/kernels/encode-inl.h", '#include "hwy/highway.h"'),
            ("server/generation_service.cc", '#include "tidegate/v1/generation.grpc.pb.h"'),
            ("cli/bench.cc", '#include "weightstore/store.h"'),
            ("cli/pack.cc", '#include "packer/pack_writer.h"'),
            ("cli/eval.cc", '#include "measure/evaluation.h"'),
            ("measure/local_model.cc", '#include "weightstore/store.h"'),
            ("measure/local_model.cc", '#include "packer/pack_writer.h"'),
            ("tests/engine/engine_test.cc", '#include "weightstore/cache/slot_table.h"'),
        ]
        for path, line in allowed:
            with self.subTest(path=path, line=line):
                self.assertEqual([], violations_in(path, line + "\n"))


if __name__ == "__main__":
    unittest.main()
