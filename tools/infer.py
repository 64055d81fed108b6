from densemtmd.commands.infer import main

if __name__ == "__main__":
    raise SystemExit(main())
