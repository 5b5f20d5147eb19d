"""Plug-in for ms-swift: `swift rlhf --rlhf_type dpo --external_plugins examples/ms_swift_plugin.py ...`.

ms-swift calls TRL's functions by name, so patching TRL serves its trainers.
"""

from segkernel import integrations

report = integrations.patch("trl")
print(report)
