"""Reads Prometheus's text format from standard input with the parser of the prometheus-client package, and writes what it
found as JSON: {name: {"type": …, "help": …, "samples": [[labels, value], …]}}. A repeated name or sample is an error."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families


def main() -> None:
    families = {}
    for family in text_string_to_metric_families(sys.stdin.read()):
        assert family.name not in families, f"{family.name} stands twice"
        samples = []
        for sample in family.samples:
            assert sample.name == family.name, f"{sample.name} within {family.name}"
            entry = [sample.labels, float(sample.value)]
            assert all(entry[0] != other[0] for other in samples), f"{entry} stands twice"
            samples.append(entry)
        families[family.name] = {"type": family.type, "help": family.documentation, "samples": samples}
    json.dump(families, sys.stdout)


main()
