#include "base/metrics_tls.h"

#include <utility>

#include "base/metrics_page.h"

namespace tidegate {

std::vector<prometheus::MetricFamily> TlsMetrics::Collect() const {
  const TlsStats stats = tls_->stats();
  MetricsPage page({});
  page.Gauge("tidegate_tls_certificate_expiry_timestamp_seconds",
             "When the certificate in use ends to be valid, in seconds since 1970.",
             static_cast<double>(stats.expiry));
  page.Counter("tidegate_tls_certificate_reloads_total",
               "Times certificate and key were read again and taken.",
               static_cast<double>(stats.reloads));
  page.Counter("tidegate_tls_certificate_reload_failures_total",
               "Times they were read again and not taken: the old ones stayed.",
               static_cast<double>(stats.reload_failures));
  page.Counter("tidegate_tls_handshakes_total", "TLS handshakes that were completed.",
               static_cast<double>(stats.handshakes));
  page.Counter("tidegate_tls_handshake_failures_total",
               "TLS handshakes that failed, plaintext clients included.",
               static_cast<double>(stats.handshake_failures));
  return std::move(page).Take();
}

}  // namespace tidegate
