# SPDX-License-Identifier: GPL-3.0-or-later
"""Who runs a job: one interface (`base`), child processes of this machine (`local`), what runs in them (`runner`)."""
