# Targets for users and developers of a clone; `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Inventory (a file or a directory), and additional arguments of ansible-playbook (ARGS='--check --diff').
INVENTORY ?= inventories/local
ARGS ?=
# Molecule scenario.
SCENARIO ?= default

UV_VERSION := 0.13.8
# Packages for podman and for building images on Debian and derivatives. Without the settings of containers-storage, podman of
# Debian 12 copies the images of users other than root for each container.
DEBIAN_PACKAGES := python3-venv podman runc netavark aardvark-dns iptables catatonit uidmap slirp4netns fuse-overlayfs \
	mmdebstrap debian-archive-keyring $(if $(wildcard /run/systemd/system),dbus-user-session) \
	$(if $(filter-out 0,$(shell id -u)),containers-storage)
# Additional packages for tests: databases (programs only, no service), a linter, a browser with the tool for its CA certificates, and
# promtool and amtool with their servers; age makes keys for SOPS; Java runs the rules of ansible-rulebook.
DEBIAN_TEST_PACKAGES := age default-jre-headless postgresql docker-registry mariadb-server-core mariadb-client shellcheck chromium \
	libnss3-tools pgbackrest prometheus prometheus-alertmanager prometheus-postgres-exporter prometheus-mysqld-exporter prometheus-node-exporter

# Tools, collection and configuration of the clone, whatever the environment is. Ansible does not run in a locale other than UTF-8,
# such as that of a new installation.
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.cache/collections
export LC_ALL := C.UTF-8
# With it, Ansible is compiled again at each start.
unexport PYTHONDONTWRITEBYTECODE

LINK := .cache/collections/ansible_collections/mlops/mlflow
PLAY := ansible-playbook --inventory $(INVENTORY)

.PHONY: help quickstart wizard status verify service-levels open uninstall backup restore migrate upgrade rollback restart maintain logs clean venv test lint sanity unit versions upgrades manifests ansible-versions molecule molecule-ssh build platform ee \
	benchmark-converge benchmark-serve benchmark-ui benchmark-exporter benchmark-backup changelog lock tools test-tools packages test-packages

help: ## List the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo
	@echo "INVENTORY=$(INVENTORY) is the inventory; ARGS, such as '--check --diff', are arguments of ansible-playbook."

# Running MLflow

quickstart: tools ## Install everything that is needed, deploy MLflow and verify it
	@[ ! -e '$(INVENTORY)' ] || grep -qxsF '$(INVENTORY)' .cache/deployed || echo '$(INVENTORY)' >>.cache/deployed
	@$(PLAY) playbooks/site.yml $(ARGS)

wizard: tools ## Ask for an instance, write its inventory, show the plan and deploy it
	@python tools/wizard.py

status: tools ## Show pods, version and health
verify: tools ## Verify an instance, with a round trip of a client
service-levels: tools ## Measure API, upload, user interface and database, and fail where they are slower than wanted
open: tools ## Forward a port to the user interface and show its URL
uninstall: tools ## Remove an instance and keep its data (ARGS='-e mlflow_purge_data=true': remove that too)
backup: tools ## Make a backup, verify it, and list all backups
restore: tools ## Restore the latest backup (ARGS='-e mlflow_restore_set=ID': another one)
migrate: tools ## Move to another kind of database or store (ARGS: see playbooks/migrate.yml)
upgrade: tools ## Upgrade MLflow after a backup and a rehearsal (ARGS='-e mlflow_upgrade_to=VERSION')
rollback: tools ## Go back to the version before the last upgrade
restart: tools ## Restart the server, one pod after the other
maintain: tools ## Report on database and artifacts, and clean them (ARGS=--check: only report)
logs: tools ## Gather logs, events and objects without secrets into support/
status verify service-levels open uninstall backup restore migrate upgrade rollback restart maintain logs:
	@$(PLAY) playbooks/$(subst -,_,$@).yml $(ARGS)

# Removes instances of the local inventories only, with their data. Those of other inventories may be in production and are listed.
clean: ## Undo quickstart: its instances with their data, the images, .venv and .cache
	@for inventory in $$(cat .cache/deployed 2>/dev/null); do \
		case $$inventory in \
			inventories/local*) \
				$(MAKE) tools; \
				echo "Removing the instances of $$inventory and their data"; \
				ansible-playbook --inventory $$inventory playbooks/uninstall.yml --extra-vars '{"mlflow_purge_data": true}';; \
			*) echo "Left running: the instances of $$inventory (make uninstall INVENTORY=$$inventory removes them).";; \
		esac; \
	done
	@if command -v podman >/dev/null; then \
		images=$$(podman images --format '{{.Repository}}:{{.Tag}}' | grep '^localhost/mlops-mlflow/' || true); \
		if [ "$$images" ]; then echo "Removing the images that were built here"; podman rmi $$images >/dev/null || echo "Images that another instance uses are kept."; fi; \
	fi
	@rm -rf .venv .cache .ansible
	@echo "Clean. Debian packages that make installed are kept."

# Tools

venv: tools test-tools ## Install all tools into .venv, those for tests too

packages:
	@tools/debian-packages $(DEBIAN_PACKAGES)

test-packages:
	@tools/debian-packages --without-services $(DEBIAN_TEST_PACKAGES)

tools: packages .venv/.runtime $(LINK)
test-tools: tools .venv/.test

# Debian's Python first, since that of a version manager may lack modules for virtual environments.
.venv/bin/uv: | packages
	@for python in /usr/bin/python3 python3.13 python3.12 python3.11 python3 ""; do \
		$${python:-false} -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done; \
	[ "$$python" ] || { echo "Python 3.11 or newer, with its venv module, is needed; found: $$(/usr/bin/python3 --version)"; exit 1; }; \
	echo "Making .venv with $$($$python --version)"; \
	$$python -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# uv uses the package index of pip's configuration.
define uv
index=$${PIP_INDEX_URL:-$$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)}; \
	[ -z "$$index" ] || export UV_DEFAULT_INDEX=$${UV_DEFAULT_INDEX:-$$index}; .venv/bin/uv
endef

.venv/.runtime: requirements.txt | .venv/bin/uv
	@echo "Installing Ansible and the clients of what it manages"
	@$(uv) pip install --python .venv --requirements $<
	@touch $@

.venv/.test: requirements-test.txt .venv/.runtime
	@echo "Installing the tools for tests"
	@$(uv) pip install --python .venv --requirements $<
	@touch $@

# Storage emulator of Azure, for unit tests, installed without scripts of its packages.
.cache/azurite/.installed: tests/azurite/package-lock.json .venv/.test
	@echo "Installing Azurite"
	@mkdir -p $(@D)
	@cp tests/azurite/package.json tests/azurite/package-lock.json $(@D)
	@npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

# MLflow in each version that tests/versions runs. Those in `older` are not supported as servers; their databases are upgraded.
vpath %.txt tests/versions/locks tests/versions/older
.cache/versions/%/.installed: %.txt .venv/.test
	@echo "Installing MLflow $*"
	@$(uv) venv --quiet --clear --python .venv/bin/python $(@D)
	@$(uv) pip install --quiet --python $(@D) --requirements $<
	@touch $@

$(LINK):
	@mkdir -p $(@D)
	@ln -sfn ../../../.. $@

lock: test-tools ## Renew requirements.txt, requirements-test.txt, requirements-ee.txt and tests/azurite/package-lock.json
	@for each in requirements requirements-test requirements-ee; do \
		$(uv) pip compile --quiet --upgrade --python-version 3.11 --custom-compile-command 'make lock' \
			--output-file $$each.txt $$each.in; \
	done
	@for each in 2.16:3.10 2.21:3.12; do \
		$(uv) pip compile --quiet --upgrade --universal --python-version $${each#*:} --custom-compile-command 'make lock' \
			--output-file tests/ansible/$${each%:*}.txt tests/ansible/$${each%:*}.in; \
	done
	@npm install --prefix tests/azurite --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund \
		--loglevel=error >/dev/null

# Tests

VERSIONS := $(patsubst tests/versions/locks/%.txt,.cache/versions/%/.installed,$(wildcard tests/versions/locks/*.txt))
OLDER := $(patsubst tests/versions/older/%.txt,.cache/versions/%/.installed,$(wildcard tests/versions/older/*.txt))
# Two lanes of about the same length; everything is installed before, since apt-get has one lock.
test: test-tools test-packages .cache/azurite/.installed $(VERSIONS) ## Run all tests, in two lanes side by side
	@tools/run-tests "lint build manifests ansible-versions sanity unit" "standalone platform molecule molecule-ssh versions"

# State of these tools stays in the clone.
lint molecule build changelog: export ANSIBLE_HOME := $(CURDIR)/.cache/ansible

lint: test-tools test-packages ## yamllint, ansible-lint (profile production), the changelog and shell scripts
	@yamllint --strict .
	@ansible-lint
	@antsibull-changelog lint
	@shellcheck .ci/run tools/debian-packages tools/run-tests benchmarks/converge benchmarks/serve benchmarks/ui benchmarks/exporter benchmarks/backup plugins/plugin_utils/engines/scripts/*.sh

# ansible-test requires the collection in a directory of its name, and a repository there, so that the files are not taken for
# ignored ones. It would download pip for its environments; ensurepip is used instead. It passes no environment variables to
# pip, so the settings of pip are written to a file.
SANITY := .cache/sanity
sanity: test-tools test-packages ## ansible-test sanity
	@rm -rf $(SANITY)/ansible_collections
	@mkdir -p $(SANITY)/ansible_collections/mlops/mlflow $(SANITY)/.ansible/test/cache $(SANITY)/.config/pip
	@git ls-files --cached --others --exclude-standard -z \
		| while IFS= read -rd '' file; do [ ! -e "$$file" ] || printf '%s\0' "$$file"; done \
		| tar --create --null --files-from - | tar --extract --directory $(SANITY)/ansible_collections/mlops/mlflow
	@git init --quiet $(SANITY)/ansible_collections/mlops/mlflow
	@{ printf '[global]\nquiet = 2\nprogress-bar = off\n'; .venv/bin/python -m pip config list \
		| sed -nE "s/^(:env:|global)\.(index-url|extra-index-url|find-links|trusted-host|cert|proxy)='(.*)'$$/\2 = \3/p" \
		| awk '!seen[$$1]++'; } >$(SANITY)/.config/pip/pip.conf
	@for version in $$(sed -nE "s/^ +pip='(.*)',/\1/p" .venv/lib/python3*/site-packages/ansible_test/_internal/python_requirements.py); do \
		printf 'import subprocess, sys\nsubprocess.run([sys.executable, "-m", "ensurepip"], stdout=subprocess.DEVNULL, check=True)\n' \
			>$(SANITY)/.ansible/test/cache/get_pip_$${version//./_}.py; \
	done
	@version=$$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	cd $(SANITY)/ansible_collections/mlops/mlflow; \
	HOME=$(CURDIR)/$(SANITY) ansible-test sanity --local --requirements --python $$version

unit: test-tools test-packages .cache/azurite/.installed ## Unit tests, against real servers that they start
	@pytest tests/unit

versions: test-tools test-packages $(VERSIONS) ## The oldest supported MLflow, the newest, and one between
	@pytest tests/versions

manifests: test-tools ## Render every inventory and validate each object
	@pytest tests/manifests

# Each version has an environment of its own, of the Python that runs it; uv is asked here once, so that it knows where packages are.
upgrades: test-tools test-packages $(VERSIONS) $(OLDER) ## Upgrade each older MLflow, from 3.1 on, on PostgreSQL, MariaDB and SQLite, and back (several minutes)
	@MLOPS_UPGRADES=1 pytest tests/versions/test_upgrade.py

ansible-versions: test-tools ## Render all inventories with the oldest and the newest supported ansible-core
	@$(uv) --version >/dev/null; pytest tests/ansible

molecule: test-tools test-packages ## Test deployments: SCENARIO=default on podman, ssh on podman by SSH, upgrade from the oldest MLflow, kubernetes on the cluster of KUBECONFIG
	@molecule test --scenario-name $(SCENARIO)

molecule-ssh: ## Test deployments by SSH: as root, with sudo, as a user without root
	@$(MAKE) molecule SCENARIO=ssh

build: test-tools ## Build the collection's archive, install it elsewhere and read its documentation there
	@rm -rf .cache/dist
	@ansible-galaxy collection build --output-path .cache/dist
	@export ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/.cache/dist/installed; \
	ansible-galaxy collection install --offline --no-deps .cache/dist/*.tar.gz; \
	cd .cache/dist; \
	for type in module filter role; do \
		plugins=$$(ansible-doc --type $$type --list --json mlops.mlflow | python -c 'import json, sys; print(*json.load(sys.stdin))'); \
		ansible-doc --type $$type --json $$plugins >/dev/null; \
		echo "Documented: $$plugins"; \
	done

ee: test-tools ## Build the execution environment and run site.yml in it (ARGS='-e ee_base=IMAGE': on another base)
	@ansible-playbook --inventory localhost, tools/execution_environment.yml $(ARGS)

platform: test-tools test-packages ## The wizard, the survey, each job template as Ansible Automation Platform runs it, and rulebooks
	@pytest tests/platform

standalone: test-tools ## Roles alone in another project's play; a component added to a copy
	@pytest tests/standalone

benchmark-converge: tools ## Measure runs without changes on the cluster of KUBECONFIG (ARGS=--help: options)
benchmark-serve: tools ## Measure the server under load, compared with others
benchmark-ui: tools test-packages ## Measure how fast the user interface loads, with and without compression
benchmark-exporter: test-tools test-packages ## Measure what the exporter takes of databases with a million runs
benchmark-backup: test-tools test-packages ## Measure backup and restore, compared with plain dumps and copies
benchmark-converge benchmark-serve benchmark-ui benchmark-exporter benchmark-backup:
	@benchmarks/$(@:benchmark-%=%) $(ARGS)

changelog: test-tools ## Turn changelogs/fragments into CHANGELOG.rst, under the version in galaxy.yml
	@antsibull-changelog release --update-existing --reload-plugins --refresh-plugins
