"""For ms-swift: `--external_plugins spinal_plugin.py --callbacks spinal`. Every field of SpinalConfig may be given."""

from spinal_callback.hosts.ms_swift import register

register(every=2, num_prompts=32)
