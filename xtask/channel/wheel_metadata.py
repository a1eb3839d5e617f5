"""Prints, as JSON, what the wheels named on the command line say about themselves.

Usage: python wheel_metadata.py PIP_WHEEL WHEEL...

Requirements are evaluated for the interpreter that runs this, with the parser that pip itself carries.
"""

import configparser
import email.parser
import json
import sys
import zipfile

sys.path.insert(0, sys.argv[1])

from pip._vendor.packaging.requirements import Requirement  # noqa: E402
from pip._vendor.packaging.utils import canonicalize_name  # noqa: E402


def entry_points(text):
    parser = configparser.ConfigParser(delimiters=("=",), strict=False)
    parser.optionxform = str
    parser.read_string(text)
    found = []
    for section in ("console_scripts", "gui_scripts"):
        if parser.has_section(section):
            for command, target in parser.items(section):
                target = target.partition("[")[0].strip()
                found.append(f"{command} = {target}")
    return sorted(found)


def license_of(metadata):
    classifiers = [c for c in metadata.get_all("Classifier", []) if c.startswith("License :: ")]
    if metadata.get("License-Expression"):
        return metadata["License-Expression"]
    if metadata.get("License") and "\n" not in metadata["License"]:
        return metadata["License"]
    return classifiers[0].rpartition(" :: ")[2] if classifiers else "unknown"


def describe(path):
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        dist_info = next(n for n in names if n.endswith(".dist-info/METADATA")).rpartition("/")[0]
        metadata = email.parser.Parser().parsestr(wheel.read(f"{dist_info}/METADATA").decode())
        tags = email.parser.Parser().parsestr(wheel.read(f"{dist_info}/WHEEL").decode())
        points = ""
        if f"{dist_info}/entry_points.txt" in names:
            points = wheel.read(f"{dist_info}/entry_points.txt").decode()
    depends = []
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            clauses = sorted(str(clause) for clause in requirement.specifier)
            depends.append([canonicalize_name(requirement.name), ",".join(clauses)])
    urls = dict(part.split(", ", 1) for part in metadata.get_all("Project-URL", []) if ", " in part)
    return {
        "dist_info": dist_info,
        "name": canonicalize_name(metadata["Name"]),
        "version": metadata["Version"],
        "summary": metadata.get("Summary", ""),
        "license": license_of(metadata),
        "home": metadata.get("Home-page") or urls.get("Homepage") or urls.get("homepage") or "",
        "requires_python": metadata.get("Requires-Python", ""),
        "depends": sorted(depends),
        "entry_points": entry_points(points),
        "pure": tags["Root-Is-Purelib"].strip().lower() == "true",
        "tags": tags.get_all("Tag", []),
    }


json.dump([dict(describe(path), file=path) for path in sys.argv[2:]], sys.stdout)
