#!/bin/sh
# apt-get installs a local package with all that dpkg does to a file system, upgrades it, and purges it.
set -eu
# With its files' times fixed, a package has the same size each time it is built.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C SOURCE_DATE_EPOCH=1700000000
cd /tmp

make_package() { # VERSION
  rm -rf package
  mkdir -p package/DEBIAN package/usr/bin package/usr/share/clearvm-hello package/etc
  printf '#!/bin/sh\necho "hello %s, $(cat /etc/clearvm-hello.conf)"\n' "$1" > package/usr/bin/clearvm-hello
  chmod 755 package/usr/bin/clearvm-hello
  ln package/usr/bin/clearvm-hello package/usr/bin/clearvm-hi
  ln -s ../share/clearvm-hello package/usr/bin/clearvm-data
  echo configured > package/etc/clearvm-hello.conf
  echo /etc/clearvm-hello.conf > package/DEBIAN/conffiles
  for i in $(seq 50); do echo "$1 $i" > package/usr/share/clearvm-hello/$i; done
  cat > package/DEBIAN/control << END
Package: clearvm-hello
Version: $1
Architecture: all
Maintainer: ClearVM <nobody@localhost>
Depends: coreutils
Description: something to install
END
  cat > package/DEBIAN/postinst << 'END'
#!/bin/sh
set -e
getent group clearvm-hello > /dev/null || groupadd --system clearvm-hello
chgrp clearvm-hello /usr/share/clearvm-hello
chmod 2775 /usr/share/clearvm-hello
echo "postinst $1"
END
  chmod 755 package/DEBIAN/postinst
  dpkg-deb --root-owner-group --build package "clearvm-hello_$1_all.deb"
}

show() {
  dpkg-query -W -f '${Package} ${Version} ${Status}\n' clearvm-hello
  dpkg --verify clearvm-hello
  clearvm-hello
  clearvm-hi
  stat -c '%n %A %U:%G %h' /usr/bin/clearvm-hello /usr/bin/clearvm-data /usr/share/clearvm-hello
  cat /usr/bin/clearvm-data/50
}

make_package 1.0
make_package 1.1
apt-get install -y ./clearvm-hello_1.0_all.deb 2>&1
show
echo 'changed by hand' > /etc/clearvm-hello.conf
apt-get install -y -o Dpkg::Options::=--force-confold ./clearvm-hello_1.1_all.deb 2>&1
show 2>&1
apt-get purge -y clearvm-hello 2>&1
ls /usr/share/clearvm-hello /etc/clearvm-hello.conf 2>&1 || true
dpkg --audit
apt-get check
